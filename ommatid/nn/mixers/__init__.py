"""Token mixers: one file per idea, all (B, H, W, C) -> (B, H, W, C)."""

from ommatid.nn.mixers.adaptive_global_conv import AdaptiveGlobalConv
from ommatid.nn.mixers.aggregated import AggregatedAttention, LengthScaledAttention
from ommatid.nn.mixers.attention import Attention
from ommatid.nn.mixers.bi_level_routing import BiLevelRoutingAttention
from ommatid.nn.mixers.cascaded_group import CascadedGroupAttention
from ommatid.nn.mixers.channel_attention import ChannelAttention
from ommatid.nn.mixers.combiner import combiner_attention
from ommatid.nn.mixers.conv_projection import ConvProjectionAttention
from ommatid.nn.mixers.cosine_window import cosine_window_attention
from ommatid.nn.mixers.cross_shaped import CrossShapedAttention
from ommatid.nn.mixers.decomposed import DecomposedPositionAttention
from ommatid.nn.mixers.dual import DualChannelAttention, DualPositionAttention
from ommatid.nn.mixers.dynamic_conv import DynamicConv
from ommatid.nn.mixers.efficient_modulation import EfficientModulation
from ommatid.nn.mixers.factorization import FactorizationAttention
from ommatid.nn.mixers.gated_linear_attention import GatedLinearAttention
from ommatid.nn.mixers.gated_positional import GatedPositionalAttention
from ommatid.nn.mixers.gated_token_mlp import GatedTokenMLP
from ommatid.nn.mixers.global_conv import structured_global_conv
from ommatid.nn.mixers.global_local import GlobalLocalFilter
from ommatid.nn.mixers.halo import HaloAttention
from ommatid.nn.mixers.high_low_conv import HighLowConv
from ommatid.nn.mixers.hilo import HiLoAttention
from ommatid.nn.mixers.hyena import Hyena2d
from ommatid.nn.mixers.injective_linear import InjectiveLinearAttention
from ommatid.nn.mixers.large_kernel import LargeKernelAttention
from ommatid.nn.mixers.large_small import LargeSmallConv
from ommatid.nn.mixers.lightning import GatedLightningAttention, LightningAttention
from ommatid.nn.mixers.long_short import LongShortAttention
from ommatid.nn.mixers.lowtention import Lowtention
from ommatid.nn.mixers.masked_attention import MaskedAttention
from ommatid.nn.mixers.max_pool import MaxPoolMixer
from ommatid.nn.mixers.mix_shift import MixShift
from ommatid.nn.mixers.multi_axis import multi_axis_gated_mlp, multi_axis_linear
from ommatid.nn.mixers.multi_head_scan import MultiHeadScan
from ommatid.nn.mixers.neighborhood import NeighborhoodAttention
from ommatid.nn.mixers.overlapping_cross import OverlappingCrossAttention
from ommatid.nn.mixers.polarized import ParallelPolarizedAttention, SequentialPolarizedAttention
from ommatid.nn.mixers.raft import RaftMixer
from ommatid.nn.mixers.rectangle_window import RectangleWindowAttention
from ommatid.nn.mixers.recursive_gated import RecursiveGatedConv
from ommatid.nn.mixers.recursive_generalization import RecursiveGeneralizationAttention
from ommatid.nn.mixers.retention import Retention
from ommatid.nn.mixers.routing import RoutingAttention
from ommatid.nn.mixers.scale_aware import ScaleAwareModulation
from ommatid.nn.mixers.selective_attention import SelectiveAttention
from ommatid.nn.mixers.self_attention_conv import SelfAttentionConv
from ommatid.nn.mixers.self_guided import GuidedAttention, GuidingAttention
from ommatid.nn.mixers.short_conv import GatedShortConv
from ommatid.nn.mixers.sigmoid_attention import SigmoidAttention
from ommatid.nn.mixers.simplified_linear import SimplifiedLinearAttention
from ommatid.nn.mixers.single_head import SingleHeadAttention
from ommatid.nn.mixers.sliced_group import SlicedGroupAttention
from ommatid.nn.mixers.sliding_window import SlidingWindowAttention
from ommatid.nn.mixers.softmax_free import SoftmaxFreeAttention
from ommatid.nn.mixers.softplus_attention import SoftplusAttention
from ommatid.nn.mixers.spatial_reduction import SpatialReductionAttention
from ommatid.nn.mixers.spectral_gate import SpectralGate
from ommatid.nn.mixers.ss2d import SS2D
from ommatid.nn.mixers.subspace import SubspaceAttention
from ommatid.nn.mixers.super_token import SuperTokenAttention
from ommatid.nn.mixers.taylor import TaylorAttention
from ommatid.nn.mixers.token_linear import TokenLinear
from ommatid.nn.mixers.token_mlp import TokenMLP
from ommatid.nn.mixers.transposed import TransposedAttention
from ommatid.nn.mixers.varying_window import VaryingWindowAttention
from ommatid.nn.mixers.wavelet import WaveletMixer
from ommatid.nn.mixers.window import WindowAttention
from ommatid.nn.mixers.window_mlp import WindowMLP
from ommatid.nn.mixers.windowed import Gridded, Windowed

__all__ = [
    "SS2D",
    "AdaptiveGlobalConv",
    "AggregatedAttention",
    "Attention",
    "BiLevelRoutingAttention",
    "CascadedGroupAttention",
    "ChannelAttention",
    "ConvProjectionAttention",
    "CrossShapedAttention",
    "DecomposedPositionAttention",
    "DualChannelAttention",
    "DualPositionAttention",
    "DynamicConv",
    "EfficientModulation",
    "FactorizationAttention",
    "GatedLightningAttention",
    "GatedLinearAttention",
    "GatedPositionalAttention",
    "GatedShortConv",
    "GatedTokenMLP",
    "GlobalLocalFilter",
    "Gridded",
    "GuidedAttention",
    "GuidingAttention",
    "HaloAttention",
    "HiLoAttention",
    "HighLowConv",
    "Hyena2d",
    "InjectiveLinearAttention",
    "LargeKernelAttention",
    "LargeSmallConv",
    "LengthScaledAttention",
    "LightningAttention",
    "LongShortAttention",
    "Lowtention",
    "MaskedAttention",
    "MaxPoolMixer",
    "MixShift",
    "MultiHeadScan",
    "NeighborhoodAttention",
    "OverlappingCrossAttention",
    "ParallelPolarizedAttention",
    "RaftMixer",
    "RectangleWindowAttention",
    "RecursiveGatedConv",
    "RecursiveGeneralizationAttention",
    "Retention",
    "RoutingAttention",
    "ScaleAwareModulation",
    "SelectiveAttention",
    "SelfAttentionConv",
    "SequentialPolarizedAttention",
    "SigmoidAttention",
    "SimplifiedLinearAttention",
    "SingleHeadAttention",
    "SlicedGroupAttention",
    "SlidingWindowAttention",
    "SoftmaxFreeAttention",
    "SoftplusAttention",
    "SpatialReductionAttention",
    "SpectralGate",
    "SubspaceAttention",
    "SuperTokenAttention",
    "TaylorAttention",
    "TokenLinear",
    "TokenMLP",
    "TransposedAttention",
    "VaryingWindowAttention",
    "WaveletMixer",
    "WindowAttention",
    "WindowMLP",
    "Windowed",
    "combiner_attention",
    "cosine_window_attention",
    "multi_axis_gated_mlp",
    "multi_axis_linear",
    "structured_global_conv",
]
