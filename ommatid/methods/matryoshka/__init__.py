"""Nested representations: every prefix of a feature vector is a representation of its own.

"Matryoshka Representation Learning" (arXiv 2205.13147).
"""

from ommatid.methods.matryoshka.cascade import learn_thresholds, predict_in_cascade
from ommatid.methods.matryoshka.heads import MatryoshkaHead, nested_cross_entropy, nested_loss
from ommatid.methods.matryoshka.retrieval import rerank, retrieval_metrics, shortlist

__all__ = [
    "MatryoshkaHead",
    "learn_thresholds",
    "nested_cross_entropy",
    "nested_loss",
    "predict_in_cascade",
    "rerank",
    "retrieval_metrics",
    "shortlist",
]
