"""Token mixers: one file per idea, all (B, H, W, C) -> (B, H, W, C)."""

from ommatid.nn.mixers.attention import Attention
from ommatid.nn.mixers.channel_attention import ChannelAttention
from ommatid.nn.mixers.neighborhood import NeighborhoodAttention
from ommatid.nn.mixers.spatial_reduction import SpatialReductionAttention
from ommatid.nn.mixers.window import WindowAttention
from ommatid.nn.mixers.window_mlp import WindowMLP
from ommatid.nn.mixers.windowed import Windowed

__all__ = [
    "Attention",
    "ChannelAttention",
    "NeighborhoodAttention",
    "SpatialReductionAttention",
    "WindowAttention",
    "WindowMLP",
    "Windowed",
]
