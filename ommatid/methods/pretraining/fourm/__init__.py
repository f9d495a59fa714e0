"""4M: one transformer that guesses tokens of some modalities from tokens of others.

"4M: Massively Multimodal Masked Modeling" (arXiv 2312.06647).
"""

from ommatid.methods.pretraining.fourm.budgets import draw_budget
from ommatid.methods.pretraining.fourm.network import FourM
from ommatid.methods.pretraining.fourm.samples import Sample, image_sample, sequence_sample
from ommatid.methods.pretraining.fourm.spans import draw_spans, mask_spans

__all__ = [
    "FourM",
    "Sample",
    "draw_budget",
    "draw_spans",
    "image_sample",
    "mask_spans",
    "sequence_sample",
]
