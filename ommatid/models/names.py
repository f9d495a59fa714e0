"""Rules for REFERENCE_NAMES that many references share, since their code descends from one family's.

Rules apply in order: a family puts its own first.
"""

from __future__ import annotations

from ommatid.models.reference import one_later, zero_based

# A block of two branches with layer scale, and perhaps a depthwise convolution in its MLP: DeiT (arXiv 2012.12877).
BLOCK_NAMES = [
    (r"\.norm1\.", ".token.norm."),
    (r"\.norm2\.", ".channel.norm."),
    (r"\.attn\.", ".token.inner."),
    (r"\.mlp\.dwconv\.dwconv\.", ".channel.inner.conv."),
    (r"\.mlp\.", ".channel.inner."),
    (r"\.(?:gamma_?1|layer_scale_1)$", ".token.scale.gamma"),
    (r"\.(?:gamma_?2|layer_scale_2)$", ".channel.scale.gamma"),
    (r"\.ls1\.", ".token.scale."),
    (r"\.ls2\.", ".channel.scale."),
]

# A block of convolutions and norms counted from 1, and its shortcut: ResNet (arXiv 1512.03385).
RESNET_BLOCK_NAMES = [
    (r"\.conv(\d)\.", zero_based(".branch.{}.conv.")),
    (r"\.bn(\d)\.", zero_based(".branch.{}.norm.")),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]

# Stages that end with the down-sampler which ours begin with: Swin Transformer (arXiv 2103.14030).
SWIN_STAGE_NAMES = [
    (r"^(?:absolute_)?pos_embed$", "position.table"),
    (r"^patch_embed\.", "stem."),
    (r"^layers\.(\d+)\.downsample\.", one_later("stages.{}.downsample.")),
    (r"^layers\.(\d+)\.", r"stages.\1."),
    (r"\.relative_position_bias_table$", ".bias.table"),
]
# In front of them, where positions are part of the stem: models/window_pyramid.py.
WINDOW_PYRAMID_STEM_NAMES = [
    (r"^absolute_pos_embed$", "stem.position.table"),
    (r"^patch_embed\.", "stem.patches."),
]
SWIN_TABLES = [r"\.relative_position_index$", r"\.relative_coords_table$", r"\.attn_mask$"]

# The network of a dynamic position bias: a linear layer, then three times a norm, an activation and a linear layer.
DYNAMIC_BIAS_NAMES = [
    (r"\.pos\.pos_proj\.", ".bias.network.0."),
    (r"\.pos\.pos(\d)\.(\d)\.", lambda match: f".bias.network.{3 * int(match[1]) - 2 + int(match[2])}."),
]

# Super-resolution of residual groups between a shallow convolution and pixel shuffles: SwinIR (arXiv 2108.10257).
SWINIR_NAMES = [
    (r"^conv_first\.", "shallow."),
    (r"^conv_before_upsample\.0\.", "reconstruction.expand."),
    (r"^upsample\.", "reconstruction.upsample."),
    (r"^conv_last\.", "reconstruction.proj."),
    (r"^conv_after_body\.", "deep.conv."),
    (r"^norm\.", "deep.norm_behind."),
    (r"^layers\.(\d+)\.conv\.", r"deep.groups.\1.inner.conv."),
]

# Stages counted from 1, their parts each in a row of its own: PVT (arXiv 2102.12122).
PVT_STAGE_NAMES = [
    (r"^patch_embed(\d+)\.", zero_based("stages.{}.downsample.")),
    (r"^blocks?(\d+)\.", zero_based("stages.{}.blocks.")),
    (r"^norm(\d+)\.", zero_based("stages.{}.norm.")),
]

# Attention to a coarse copy of the map: PVT.
REDUCTION_NAMES = [
    (r"\.attn\.q\.", ".attn.query."),
    (r"\.attn\.kv\.", ".attn.key_value."),
    (r"\.attn\.sr\.", ".attn.reduction.proj."),
    (r"\.attn\.norm\.", ".attn.reduction.norm."),
]

# Down-samplers in a row of their own, the first of them the stem: ConvNeXt (arXiv 2201.03545).
CONVNEXT_STAGE_NAMES = [
    (r"^downsample_layers\.0\.0\.", "stem.proj."),
    (r"^downsample_layers\.0\.1\.", "stem.norm."),
    (r"^downsample_layers\.(\d+)\.0\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d+)\.1\.", r"stages.\1.downsample.conv."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
]

# Convolutional stem, normed convolutions, MLPs, squeeze-and-excitation and heads: LeViT (arXiv 2104.01136).
LEVIT_NAMES = [
    (r"^patch_embed\.(\d+)\.", lambda match: f"stem.{int(match[1]) // 2}."),
    (r"\.se\.", ".gate."),
    (r"\.pw([12])\.", r".fc\1."),
    (r"\.proj\.1\.", ".proj."),
    (r"\.attention_biases$", ".bias.table"),
    (r"\.c\.", ".conv."),
    (r"\.bn\.", ".norm."),
    (r"^head\.", "head.label."),
    (r"^head_dist\.", "head.teacher."),
    (r"^head\.(\w+)\.l\.", r"head.\1.linear."),
]

# Stages that begin with their merging, as the modules 0 (before), 1 (the merging itself) and 2 (after): EfficientViT
# (arXiv 2305.07027).
SANDWICHED_MERGING_NAMES = [
    (r"^blocks1\.", "stages.0.blocks."),
    (r"^blocks(\d)\.0\.(\d)\.", zero_based("stages.{}.downsample.{}.")),
    (r"^blocks(\d)\.1\.", zero_based("stages.{}.downsample.2.")),
    (r"^blocks(\d)\.2\.(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{int(match[2]) + 3}."),
    (r"^blocks(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 3}."),
    (r"\.downsample\.([03])\.m\.", r".downsample.\1.branches.0."),
    (r"\.downsample\.([14])\.m\.", r".downsample.\1.inner."),
    (r"\.downsample\.2\.conv1\.", ".downsample.2.expand."),
    (r"\.downsample\.2\.conv2\.", ".downsample.2.conv."),
    (r"\.downsample\.2\.conv3\.", ".downsample.2.reduce."),
]

# A layer of experts: Tutel (arXiv 2206.03382). Its second weights are stored with their inputs first.
TUTEL_NAMES = [
    (r"experts\.batched_fc(\d)_w$", r"experts.fc\1.weight"),
    (r"experts\.batched_fc(\d)_bias$", r"experts.fc\1.bias"),
    (r"gates\.0\.wg\.weight$", "router.logits.weight"),
    (r"gates\.0\.temperature$", "router.logits.log_scale"),
    (r"gates\.0\.sim_matrix$", "router.logits.directions"),
    (r"gates\.0\.cosine_projector\.", "router.logits.proj."),
]

# Parameters of the selective scans of a map: VMamba (arXiv 2401.10166), whole names.
SELECTIVE_SCAN_PARAMETERS = {
    "x_proj_weight": "x_proj",
    "dt_projs_weight": "dt_proj",
    "dt_projs_bias": "dt_bias",
    "A_logs": "A_log",
    "Ds": "D",
}


# Multi-scale deformable attention beside PyTorch's multi-head attention: Deformable DETR (arXiv 2010.04159).
DEFORMABLE_NAMES = [
    (r"\.sampling_offsets\.", ".offsets."),
    (r"\.attention_weights\.", ".weights."),
    (r"\.value_proj\.", ".value."),
    (r"\.output_proj\.", ".proj."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
]

# Queries that read masked maps, block by block: Mask2Former (arXiv 2112.01527).
_LAYERS = r"^predictor\.transformer_"
MASKED_ATTENTION_NAMES = [
    (_LAYERS + r"cross_attention_layers\.(\d+)\.multihead_attn\.", r"queries.blocks.\1.cross."),
    (_LAYERS + r"cross_attention_layers\.(\d+)\.norm\.", r"queries.blocks.\1.norms.0."),
    (_LAYERS + r"self_attention_layers\.(\d+)\.self_attn\.", r"queries.blocks.\1.attention."),
    (_LAYERS + r"self_attention_layers\.(\d+)\.norm\.", r"queries.blocks.\1.norms.1."),
    (_LAYERS + r"ffn_layers\.(\d+)\.linear(\d)\.", r"queries.blocks.\1.mlp.fc\2."),
    (_LAYERS + r"ffn_layers\.(\d+)\.norm\.", r"queries.blocks.\1.norms.2."),
]

# What such queries answer from, and what they know of levels and of themselves: the same.
MASK_QUERY_NAMES = [
    (r"^predictor\.decoder_norm\.", "queries.heads.norm."),
    (r"^predictor\.class_embed\.", "queries.heads.class_embed."),
    (r"^predictor\.mask_embed\.layers\.(\d)\.", lambda match: f"queries.heads.mask_embed.{2 * int(match[1])}."),
    (r"^predictor\.query_embed\.weight$", "queries.position"),
    (r"^predictor\.level_embed\.weight$", "queries.level"),
    (r"^predictor\.input_proj\.", "queries.projections."),
]
