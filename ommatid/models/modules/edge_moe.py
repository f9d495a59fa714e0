"""Edge-MoE: a multi-task transformer of experts, rearranged for hardware with little memory and bandwidth.

"Edge-MoE: Memory-Efficient Multi-Task Vision Transformer Architecture with Task-level Sparsity via Mixture-of-Experts"
(arXiv 2305.18691), with the gates of M3ViT (NeurIPS 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.expert_queues import Activation, QueuedExperts
from ommatid.nn.task_gate import GatePerTask, TaskConditionedGate
from ommatid.ops.streaming_attention import attention_schedule, reordered_attention, softmax_statistics
from ommatid.ops.table_gelu import table_gelu

GELUS: dict[str, Activation] = {"table": table_gelu, "exact": F.gelu}


@dataclass(frozen=True, kw_only=True)
class EdgeMoEConfig(PartConfig):
    """`function` says which part is meant, and which of the other fields it reads.

    scale: of the inputs of "softmax" and "gelu". parallel: queries at a time. noise_std: of the gate "noisy_vmoe".
    """

    function: Literal["softmax", "gelu", "attention", "moe_by_expert", "task_gate"] = "moe_by_expert"
    scale: float = 1.0
    parallel: int = 4
    heads: int = 3
    dim: int = 192
    hidden_dim: int = 384
    num_experts: int = 16
    top_k: int = 2
    gelu: Literal["table", "exact"] = "table"
    mode: Literal["task_conditioned", "multi_gate"] = "task_conditioned"
    gate: Literal["noisy_vmoe", "noisy"] = "noisy_vmoe"
    task_dim: int = 64
    num_tasks: int = 5
    task_id: int = 0
    noise_std: float = 1.0
    training: bool = False

    def check(self) -> None:
        require_positive(parallel=self.parallel, heads=self.heads, dim=self.dim, num_experts=self.num_experts)
        possible = 0 < self.top_k <= self.num_experts
        require(possible, "top_k", self.top_k, f"from 1 to the number of experts ({self.num_experts})")
        known = 0 <= self.task_id < self.num_tasks
        require(known, "task_id", self.task_id, f"from 0 to {self.num_tasks - 1}, one of the num_tasks")
        require(self.noise_std >= 0, "noise_std", self.noise_std, "0 or more")


@register("edge_moe", EdgeMoEConfig)
class MoEByExpert(Procedure):
    """tokens (N, D) -> features (N, D), queues (E, N) and queue_lengths (E,)."""

    config: EdgeMoEConfig

    def __init__(self, config: EdgeMoEConfig) -> None:
        super().__init__(config)
        act = GELUS[config.gelu]
        self.experts = QueuedExperts(config.dim, config.hidden_dim, config.num_experts, config.top_k, act=act)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features, queues, lengths = self.experts.with_queues(tokens)
        return {"features": features, "queues": queues, "queue_lengths": lengths}


@register_part("edge_moe", "softmax")
class SinglePassSoftmax(Procedure):
    """logits (R, n) -> maximum and reciprocal (R,), and the attention (R, n) that they leave to be formed."""

    config: EdgeMoEConfig

    def forward(self, logits: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        scores = logits * self.config.scale
        maximum, reciprocal = softmax_statistics(scores)
        attention = (scores - maximum[:, None]).exp() * reciprocal[:, None]
        return {"maximum": maximum, "reciprocal": reciprocal, "attention": attention}


@register_part("edge_moe", "gelu")
class TableGELU(Procedure):
    """x -> features of its shape."""

    config: EdgeMoEConfig

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": table_gelu(x * self.config.scale)}


@register_part("edge_moe", "attention")
class ReorderedAttention(Procedure):
    """q, k, v (N, D) -> features (N, D), and the schedule: query_at_step (T, P) and key_at_step (T,)."""

    config: EdgeMoEConfig

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        queries, keys = attention_schedule(len(q), self.config.parallel)
        features = reordered_attention(q, k, v, self.config.heads)
        return {"features": features, "query_at_step": queries, "key_at_step": keys}


@register_part("edge_moe", "task_gate")
class TaskGate(Procedure):
    """tokens (N, D) and noise (N, E) -> expert_index and weights (N, k); in training the balance_loss (1,) too."""

    config: EdgeMoEConfig

    def __init__(self, config: EdgeMoEConfig) -> None:
        super().__init__(config)
        sizes = (config.dim, config.num_experts, config.top_k)
        noise_std = config.noise_std if config.gate == "noisy_vmoe" else None
        self.router = (
            TaskConditionedGate(*sizes, tasks=config.num_tasks, task_dim=config.task_dim, noise_std=noise_std)
            if config.mode == "task_conditioned"
            else GatePerTask(*sizes, tasks=config.num_tasks, noise_std=noise_std)
        )

    def forward(self, tokens: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        routed = self.router.train(self.config.training)(tokens, self.config.task_id, noise)
        answers = {"expert_index": routed.expert_index, "weights": routed.weights}
        return answers | ({"balance_loss": routed.balance_loss.view(1)} if self.config.training else {})


REFERENCE_NAMES = [
    (r"^(w_gate|l1|b1|l2|b2)$", r"experts.\1"),
    (r"^(task|gate)\.", r"router.\1."),
]
