"""Names in the reference code of families that descend from LeViT (arXiv 2104.01136): rules for REFERENCE_NAMES."""

# Convolutional stem, normed convolutions, MLPs, squeeze-and-excitation and heads.
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

# Stages that begin with their merging, as the modules 0 (before), 1 (the merging itself) and 2 (after).
SANDWICHED_MERGING_NAMES = [
    (r"^blocks1\.", "stages.0.blocks."),
    (r"^blocks(\d)\.0\.(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{match[2]}."),
    (r"^blocks(\d)\.1\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.2."),
    (r"^blocks(\d)\.2\.(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{int(match[2]) + 3}."),
    (r"^blocks(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 3}."),
    (r"\.downsample\.([03])\.m\.", r".downsample.\1.branches.0."),
    (r"\.downsample\.([14])\.m\.", r".downsample.\1.inner."),
    (r"\.downsample\.2\.conv1\.", ".downsample.2.expand."),
    (r"\.downsample\.2\.conv2\.", ".downsample.2.conv."),
    (r"\.downsample\.2\.conv3\.", ".downsample.2.reduce."),
]
