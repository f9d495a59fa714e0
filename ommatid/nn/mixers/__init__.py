"""Token mixers: one file per idea, all (B, H, W, C) -> (B, H, W, C)."""

from ommatid.nn.mixers.attention import Attention
from ommatid.nn.mixers.neighborhood import NeighborhoodAttention
from ommatid.nn.mixers.spatial_reduction import SpatialReductionAttention
from ommatid.nn.mixers.window import WindowAttention
from ommatid.nn.mixers.window_mlp import WindowMLP

__all__ = ["Attention", "NeighborhoodAttention", "SpatialReductionAttention", "WindowAttention", "WindowMLP"]
