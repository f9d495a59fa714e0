"""DeepMAD: designing a convolutional network by mathematics, without training one."""

from ommatid.methods.deepmad.score import Score, score
from ommatid.methods.deepmad.search import Budget, design

__all__ = ["Budget", "Score", "design", "score"]
