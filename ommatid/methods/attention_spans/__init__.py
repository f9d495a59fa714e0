"""How far back each head of a causal transformer has to look, planned from what its attention does for the loss.

"Mixture of Attention Spans (MoA): Optimizing LLM Inference Efficiency with Heterogeneous Sliding-Window Lengths"
(arXiv 2406.14909). No training: `attention_influence` on calibration samples, `candidate_rules`, `Spans` with their
costs and losses, `best_plans` under a budget; `ops/elastic_window` runs what was planned.
"""

from ommatid.methods.attention_spans.cache import cache_sizes
from ommatid.methods.attention_spans.influence import attention_influence, block_influence
from ommatid.methods.attention_spans.plan import Plans, best_plans
from ommatid.methods.attention_spans.rules import Spans, candidate_rules, grouped_heads

__all__ = [
    "Plans",
    "Spans",
    "attention_influence",
    "best_plans",
    "block_influence",
    "cache_sizes",
    "candidate_rules",
    "grouped_heads",
]
