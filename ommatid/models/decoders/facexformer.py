"""FaceXFormer: one decoder for all that is asked about a face, with a learned token for each task.

"FaceXFormer: A Unified Transformer for Facial Analysis" (arXiv 2403.12960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.encoder import backbone_of
from ommatid.models.decoders.masked_attention import perceptron
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import ConvTranspose2d
from ommatid.nn.fourier_position import RandomFourierPosition
from ommatid.nn.norm import LayerNorm
from ommatid.nn.two_way import TwoWayTransformer
from ommatid.ops.resize import resample

LEVELS = 4
MASKS = 11

ANSWERS = {
    "landmarks": 136,
    "head_pose": 3,
    "attributes": 40,
    "visibility": 29,
    "age": 8,
    "gender": 2,
    "race": 5,
}
"""Numbers of each answer that has one token, in the order of the tokens; those of the masks follow."""

TASKS = {
    "masks": 0,
    "landmarks": 1,
    "head_pose": 2,
    "attributes": 3,
    "age": 4,
    "gender": 4,
    "race": 4,
    "visibility": 5,
}
"""The number of the task that each answer belongs to."""


@dataclass(frozen=True, kw_only=True)
class FaceXFormerConfig(PartConfig):
    """`part` "decoder" takes four maps of the widths `in_dims`; "network" puts it on the classifier `backbone`."""

    part: Literal["decoder", "network"] = "decoder"
    in_dims: tuple[int, ...] = (128, 256, 512, 1024)
    dim: int = 256
    depth: int = 2
    heads: int = 8
    mlp_dim: int = 2048
    backbone: str = "swin_base"

    def check(self) -> None:
        four = len(self.in_dims) == LEVELS and min(self.in_dims) > 0
        require(four, "in_dims", self.in_dims, "four positive integers, those of the maps of stride 4 to 32")
        require(self.dim > 0 and self.dim % 8 == 0, "dim", self.dim, "a positive multiple of 8")
        require_positive(depth=self.depth, mlp_dim=self.mlp_dim)
        require_divisible(self.dim // 2, self.heads)


class Read(NamedTuple):
    """fused: the map before the tokens, (B, h, w, C). tokens: (B, 18, C), and cells: (B, h, w, C), after them."""

    fused: Tensor
    tokens: Tensor
    cells: Tensor


@register("facexformer", FaceXFormerConfig)
class FaceXDecoder(Model):
    """Maps c1 to c4, (B, C_i, H_i, W_i) of any sizes -> every answer for every face.

    landmarks (B, 136), head_pose (B, 3), attributes (B, 40), visibility (B, 29), age (B, 8), gender (B, 2), race (B, 5)
    and masks (B, 11, 4 h, 4 w) for c1 of h by w cells. `answers_of` keeps what was asked, `decoded` says what it means.
    """

    config: FaceXFormerConfig
    no_decay = ("task_tokens",)

    def __init__(self, config: FaceXFormerConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.fusion = LevelFusion(config.in_dims, dim)
        self.position = RandomFourierPosition(dim)
        self.task_tokens = nn.Parameter(torch.randn(len(ANSWERS) + MASKS, dim))
        self.transformer = TwoWayTransformer(dim, config.depth, config.heads, config.mlp_dim)
        self.heads = nn.ModuleDict({name: perceptron(dim, dim, dim, size) for name, size in ANSWERS.items()})
        self.filters = perceptron(dim, dim, dim, dim // 8)
        self.upscaling = nn.Sequential(
            ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm(dim // 4),
            nn.GELU(),
            ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )

    def forward(self, c1: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> dict[str, Tensor]:
        return self.answers(self.read([channels_last(level) for level in (c1, c2, c3, c4)]))

    def read(self, maps: Sequence[Tensor]) -> Read:
        """Maps (B, H_i, W_i, C_i), fine to coarse -> what the heads see."""
        fused = self.fusion(maps)
        size = fused.shape[1:3]
        tokens, cells = self.transformer(
            self.task_tokens.expand(fused.shape[0], -1, -1),
            fused.flatten(1, 2),
            self.task_tokens,
            self.position(*size).flatten(0, 1),
        )
        return Read(fused, tokens, cells.unflatten(1, size))

    def answers(self, read: Read) -> dict[str, Tensor]:
        """What `forward` gives."""
        single, masks = read.tokens.split([len(ANSWERS), MASKS], 1)
        answers = {name: head(token) for (name, head), token in zip(self.heads.items(), single.unbind(1), strict=True)}
        answers["masks"] = torch.einsum("bqc,bhwc->bqhw", self.filters(masks), self.upscaling(read.cells))
        return answers


class LevelFusion(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, C): each to one width, then all as one.

    As in SegFormer (arXiv 2105.15203), without norm and activation: then a level's share of the last layer can come
    before the level is resized, which saves most of its cost.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, dim) for width in channels)
        self.fuse = nn.Linear(len(channels) * dim, dim, bias=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = (maps[0].shape[1], maps[0].shape[2])
        shares = reversed(self.fuse.weight.chunk(len(maps), 1))  # the coarsest level's comes first
        levels = [
            resample(F.linear(project(level), share), size, mode="bilinear")
            for project, level, share in zip(self.projections, maps, shares, strict=True)
        ]
        return torch.stack(levels).sum(0)


@register_part("facexformer", "network")
class FaceXFormer(Model):
    """Faces (B, 3, H, W), mostly of 224 by 224 pixels -> what `FaceXDecoder` gives.

    Raises:
        ValueError: the backbone is no classifier, or its maps are not `in_dims` wide.
    """

    config: FaceXFormerConfig

    def __init__(self, config: FaceXFormerConfig) -> None:
        super().__init__(config)
        self.backbone, self.decoder = backbone_of(config.backbone, config.in_dims), FaceXDecoder(config)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.decoder.answers(self.decoder.read(self.backbone.maps(image)))


def answers_of(answers: dict[str, Tensor], tasks: Tensor) -> dict[str, Tensor]:
    """Of each answer the faces whose task, (B,), it belongs to; numbers are in TASKS."""
    return {name: answer[tasks == TASKS[name]] for name, answer in answers.items()}


def decoded(answers: dict[str, Tensor], size: int = 224) -> dict[str, Tensor]:
    """What answers mean.

    landmarks (B, 68, 2): x and y in pixels of a face of that size. head_pose (B, 3): pitch, yaw and roll in radians.
    attributes and visibility: bool. age, gender, race (B,) and masks (B, H, W): numbers of classes.
    """
    meanings = {"landmarks": ((answers["landmarks"].unflatten(-1, (-1, 2)) + 1) * size - 1) / 2}
    meanings["head_pose"] = answers["head_pose"]
    meanings |= {name: answers[name] >= 0 for name in ("attributes", "visibility")}  # a probability of a half
    return meanings | {name: answers[name].argmax(1) for name in ("age", "gender", "race", "masks")}


def reference_outputs(model: FaceXDecoder, **maps: Tensor) -> dict[str, Tensor]:
    read = model.read([channels_last(maps[f"c{level}"]) for level in range(1, LEVELS + 1)])
    return {"fused": read.fused.permute(0, 3, 1, 2), "task_tokens": read.tokens} | model.answers(read)


VARIANTS = {
    "facexformer": FaceXFormerConfig(),
    "facexformer_swin_base": FaceXFormerConfig(part="network"),
}

TOKENS = ("landmarks", "pose", "attribute", "visibility", "age", "gender", "race")
"""What the reference calls the answers with one token."""

REFERENCE_NAMES = [
    (r"^pe_layer\.positional_encoding_gaussian_matrix$", "position.waves"),
    (r"^linear_c\.(\d)\.proj\.", r"fusion.projections.\1."),
    (r"^linear_fuse\.", "fusion.fuse."),
    (r"^face_decoder\.", ""),
    (r"^output_upscaling\.", "upscaling."),
    (r"^output_hypernetwork_mlps\.", "filters."),
    *((rf"^{theirs}_prediction_head\.", f"heads.{ours}.") for theirs, ours in zip(TOKENS, ANSWERS, strict=True)),
    (r"^((?:heads\.\w+|filters)\.)layers\.(\d)\.", lambda match: f"{match[1]}{2 * int(match[2])}."),
    (r"\.final_attn_token_to_image\.", ".to_map."),
    (r"\.norm_final_attn\.", ".norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.cross_attn_token_to_image\.", ".to_map."),
    (r"\.cross_attn_image_to_token\.", ".to_tokens."),
    (r"\.norm(\d)\.", lambda match: f".norms.{int(match[1]) - 1}."),
    (r"\.mlp\.lin(\d)\.", r".mlp.fc\1."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".proj."),
]


def convert_reference(state: dict[str, Tensor], model: FaceXDecoder) -> dict[str, Tensor]:
    """The tokens of all tasks as one table."""
    names = [*(f"face_decoder.{name}_token.weight" for name in TOKENS), "face_decoder.mask_tokens.weight"]
    if not all(name in state for name in names):
        return state
    others = {name: value for name, value in state.items() if name not in names}
    return others | {"task_tokens": torch.cat([state[name] for name in names])}
