"""Fusing transformers: the neurons of one are matched to those of another before their weights are averaged.

"Transformer Fusion with Optimal Transport" (arXiv 2310.05719).
"""

from ommatid.methods.merging.optimal_transport.alignment import Linear, TransportConfig, fuse_linear, neuron_map
from ommatid.methods.merging.optimal_transport.residual import POLICIES
from ommatid.methods.merging.optimal_transport.vit import fuse_vits

__all__ = ["POLICIES", "Linear", "TransportConfig", "fuse_linear", "fuse_vits", "neuron_map"]
