"""Path ensemble: a transformer's answer as a sum over paths, each weighted, dropped or taught by the longer ones.

"Revisiting Vision Transformer from the View of Path Ensemble" (arXiv 2308.06548).
"""

from ommatid.methods.path_ensemble.ensemble import EnsembleScale, class_token_paths, prefix_sums, sums_without_each
from ommatid.methods.path_ensemble.prefix_distillation import PrefixLoss, prefix_distillation, prefix_divergences
from ommatid.methods.path_ensemble.selection import Selection, correct_without_each, select_paths

__all__ = [
    "EnsembleScale",
    "PrefixLoss",
    "Selection",
    "class_token_paths",
    "correct_without_each",
    "prefix_distillation",
    "prefix_divergences",
    "prefix_sums",
    "select_paths",
    "sums_without_each",
]
