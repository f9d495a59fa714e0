"""MonoDETR: things in space from one image, by queries that look at a map of depths first.

"MonoDETR: Depth-guided Transformer for Monocular 3D Object Detection" (arXiv 2203.13310).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.box_refinement import refined
from ommatid.models.decoders.deformable_detr import SMALL_SIDES, class_layer, move_layers
from ommatid.models.decoders.deformable_pixels import DeformableEncoderLayer
from ommatid.models.decoders.masked_attention import perceptron
from ommatid.models.decoders.monodetr_decoding import detections
from ommatid.models.decoders.monodetr_depth import Depth, DepthPredictor, grouped_conv
from ommatid.models.decoders.monodetr_losses import (
    HEADING_BINS,
    SpaceTargets,
    answer_losses,
    corners_of,
    depth_loss,
    depth_map_loss,
    heading_loss,
    size_loss,
)
from ommatid.models.model import Model
from ommatid.models.names import DEFORMABLE_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.deformable_attention import DeformableAttention
from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import QueryAttention
from ommatid.nn.sine_position import sine_position
from ommatid.ops.deformable_attention import Sizes, cell_centres

DIM = 256
LEVELS = 4
DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class MonoDETRConfig(PartConfig):
    """`function` "model" reads all fields; "depth_map_loss" the depths alone, "matched_losses" none.

    `in_dims` are the widths of a backbone's maps of strides 8, 16 and 32. Training shows `groups` times `queries`
    queries. `depth_bins` bins lie between `depth_min` and `depth_max` metres. `image_size` is (height, width).
    """

    function: Literal["model", "depth_map_loss", "matched_losses"] = "model"
    in_dims: tuple[int, int, int] = (512, 1024, 2048)
    heads: int = 8
    encoder_layers: int = 3
    decoder_layers: int = 3
    ffn_dim: int = 256
    encoder_points: int = 4
    decoder_points: int = 4
    queries: int = 50
    groups: int = 11
    depth_bins: int = 80
    depth_min: float = 0.001
    depth_max: float = 60.0
    num_classes: int = 3
    image_size: tuple[int, int] = (384, 1280)
    top_k: int = 50

    def check(self) -> None:
        require_positive(in_dims=self.in_dims, decoder_layers=self.decoder_layers, ffn_dim=self.ffn_dim)
        require_positive(encoder_points=self.encoder_points, decoder_points=self.decoder_points)
        require_positive(queries=self.queries, groups=self.groups, num_classes=self.num_classes)
        require_positive(depth_bins=self.depth_bins, image_size=self.image_size)
        require(self.encoder_layers >= 0, "encoder_layers", self.encoder_layers, "0 or more")
        require_divisible(DIM, self.heads)
        deep = 0 <= self.depth_min < self.depth_max
        require(deep, "depth_min", self.depth_min, f"from 0 up to, not including, depth_max ({self.depth_max})")
        most = self.queries * self.num_classes
        require(0 < self.top_k <= most, "top_k", self.top_k, f"1 to queries times num_classes ({most})")


class Answer(NamedTuple):
    """What the queries say after a layer, Q of them.

    logits (B, Q, K); boxes (B, Q, 6), the projected centre and the distances to the left, right, top and bottom of the
    box, as shares of the image; sizes (B, Q, 3), height, width and length in metres; depth (B, Q, 2), metres and the
    logarithm of their deviation; heading (B, Q, 24), logits of 12 bins and a residual in each.
    """

    logits: Tensor
    boxes: Tensor
    sizes: Tensor
    depth: Tensor
    heading: Tensor


class DepthQueryLayer(nn.Module):
    """Queries look at the depths, at one another, around their boxes in all maps, and think; post-norm.

    (B, Q, C) -> (B, Q, C). Queries and keys of the second step are each two projections of the same, as published; a
    third one, for values, is never read, and kept frozen.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, points: int) -> None:
        super().__init__()
        self.depth = QueryAttention(dim, heads)
        self.attention = QueryAttention(dim, heads)
        self.query_content, self.query_place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_content, self.key_place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.unread = nn.Linear(dim, dim).requires_grad_(False)
        self.cross = DeformableAttention(dim, heads, LEVELS, points)
        self.mlp = MLP(dim, mlp_dim, act=nn.Sequential(nn.ReLU(), nn.Dropout(DROPOUT)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        depths: Tensor,
        reference: Tensor,
        sides: Tensor | None,
        tokens: Tensor,
        sizes: Sizes,
        allowed: Tensor | None,
    ) -> Tensor:
        """
        Args:
            x: (B, Q, C). place: (Q, C).
            depths: (B, N, C), what is to be known of the depth at each cell.
            reference, sides, tokens, sizes: as `DeformableAttention` takes.
            allowed: (Q, Q), who may look at whom; None for all.
        """
        x = self.norms[0](x + self.dropout(self.depth(x, depths, depths)))
        placed = x + place
        query = self.query_content(placed) + self.query_place(placed)
        key = self.key_content(placed) + self.key_place(placed)
        x = self.norms[1](x + self.dropout(self.attention(query, key, x, allowed)))
        x = self.norms[2](x + self.dropout(self.cross(x + place, reference, tokens, sizes, sides)))
        return self.norms[3](x + self.dropout(self.mlp(x)))


@register("monodetr", MonoDETRConfig)
class MonoDETR(Model):
    """Maps of a backbone, (B, C_i, h_i, w_i) of strides 8, 16 and 32, and focal lengths (B, 1) in pixels -> things.

    `forward` gives logits, boxes, dims, depth and angle of the last layer as `Answer` says, the same with _0, _1, ...
    of earlier ones; depth_logits (B, bins + 1, h, w), the last for "nothing", and depth_map (B, h, w) in metres.

    Some published parameters influence nothing; they are kept, frozen, so that weights and counts agree.
    """

    config: MonoDETRConfig
    no_decay = ("level", "query", "places", "bins")

    def __init__(self, config: MonoDETRConfig) -> None:
        super().__init__(config)
        fine, middle, coarse = config.in_dims
        self.projections = nn.ModuleList(
            [
                *(grouped_conv(DIM, 1, in_dim=width) for width in (fine, middle, coarse)),
                grouped_conv(DIM, 3, stride=2, in_dim=coarse),
            ]
        )
        self.depth = DepthPredictor(DIM, config.depth_bins, config.depth_min, config.depth_max, dropout=DROPOUT)
        self.level = nn.Parameter(torch.randn(LEVELS, DIM))
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(DIM, config.heads, LEVELS, config.ffn_dim, points=config.encoder_points)
            for _ in range(config.encoder_layers)
        )
        self.query = nn.Parameter(torch.randn(config.queries * config.groups, 2 * DIM))
        self.reference = nn.Linear(DIM, 2)
        self.layers = nn.ModuleList(
            DepthQueryLayer(DIM, config.heads, config.ffn_dim, config.decoder_points)
            for _ in range(config.decoder_layers)
        )
        self.classes = nn.ModuleList(class_layer(DIM, config.num_classes) for _ in self.layers)
        self.moves = nn.ModuleList(
            move_layers(DIM, 6, sides=0.0 if index else SMALL_SIDES) for index in range(config.decoder_layers)
        )
        self.sizes = nn.ModuleList(perceptron(DIM, DIM, 3) for _ in self.layers)
        self.headings = nn.ModuleList(perceptron(DIM, DIM, 2 * HEADING_BINS) for _ in self.layers)
        self.distances = nn.ModuleList(perceptron(DIM, DIM, 2) for _ in self.layers)
        self.unread = nn.ModuleDict(
            {
                "labels": nn.Embedding(config.num_classes + 1, DIM - 1),
                "scale": perceptron(DIM, DIM, DIM),
                "reference": perceptron(DIM, DIM, 2),
            }
        ).requires_grad_(False)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, f8: Tensor, f16: Tensor, f32: Tensor, focal: Tensor) -> dict[str, Tensor]:
        depth, answers = self.answers(f8, f16, f32, focal, groups=1)
        *earlier, last = [named(answer) for answer in answers]
        steps = {f"{name}_{index}": value for index, step in enumerate(earlier) for name, value in step.items()}
        return steps | last | {"depth_logits": depth.logits.permute(0, 3, 1, 2), "depth_map": depth.metres}

    def answers(
        self, f8: Tensor, f16: Tensor, f32: Tensor, focal: Tensor, *, groups: int
    ) -> tuple[Depth, list[Answer]]:
        """Of the first `groups` groups of queries, after each layer, in order; arguments else as in `forward`.

        Raises:
            ValueError: the maps are not each half as large as the one before, rounded up.
        """
        levels = self.levels(f8, f16, f32)
        depth = self.depth(levels[:3])
        sizes = [(level.shape[1], level.shape[2]) for level in levels]
        tokens = self.encode(levels, sizes)
        place, x = self.query[: self.config.queries * groups].split(DIM, dim=-1)
        x, allowed = x.expand(len(tokens), -1, -1), self._sight(groups)
        reference = self.reference(place).sigmoid().expand(len(tokens), -1, -1)
        answers = []
        for index, layer in enumerate(self.layers):
            sides = None if reference.shape[-1] == 2 else reference[..., 2::2] + reference[..., 3::2]
            x = layer(x, place, depth.embedding, reference[..., :2], sides, tokens, sizes, allowed)
            answers.append(self._say(index, x, reference, depth.metres, focal))
            reference = answers[-1].boxes.detach()
        return depth, answers

    def levels(self, f8: Tensor, f16: Tensor, f32: Tensor) -> list[Tensor]:
        """(B, h_i, w_i, C) of strides 8, 16, 32 and 64."""
        for name, finer, coarser in (("f16", f8, f16), ("f32", f16, f32)):
            size, halves = tuple(coarser.shape[2:]), tuple(-(-side // 2) for side in finer.shape[2:])
            require(size == halves, f"size of {name}", size, f"{halves}, half of the map before it")
        maps = [channels_last(features) for features in (f8, f16, f32, f32)]
        return [project(level) for project, level in zip(self.projections, maps, strict=True)]

    def encode(self, levels: Sequence[Tensor], sizes: Sizes) -> Tensor:
        """The cells (B, N, C) of all maps, after they looked at one another."""
        x = torch.cat([level.flatten(1, 2) for level in levels], dim=1)
        waves = [sine_position(*size, DIM, x.device).flatten(0, 1) for size in sizes]
        position = torch.cat([wave + level for wave, level in zip(waves, self.level, strict=True)])
        reference = cell_centres(sizes, x.device)[None]
        for layer in self.encoder:
            x = layer(x, position, reference, sizes)
        return x

    def losses(self, f8: Tensor, f16: Tensor, f32: Tensor, focal: Tensor, targets: SpaceTargets) -> dict[str, Tensor]:
        """The terms of the training loss by name, weighted already; of all groups of queries, and all layers."""
        groups = self.config.groups
        depth, answers = self.answers(f8, f16, f32, focal, groups=groups)
        sums: dict[str, Tensor] = {}
        for answer in answers:
            for name, value in answer_losses(answer, targets, groups).items():
                sums[name] = value + sums.get(name, 0.0)
        rows, columns = depth.metres.shape[1:]
        cells = focal.new_tensor([columns, rows, columns, rows])
        corners = [(corners_of(target["boxes"].float()).clamp(0, 1)) * cells for target in targets]
        depths = [target["depth"].float() for target in targets]
        limits = {"least": self.config.depth_min, "most": self.config.depth_max}
        return sums | {"depth_map": depth_map_loss(depth.logits, corners, depths, **limits)}

    def _say(self, index: int, x: Tensor, reference: Tensor, metres: Tensor, focal: Tensor) -> Answer:
        """What queries that stand at the reference, (B, Q, 2 or 6), say after layer `index`."""
        boxes = refined(reference, self.moves[index](x).float())
        sizes = self.sizes[index](x)
        said, spread = self.distances[index](x).float().unbind(-1)
        direct = 1 / (said.sigmoid() + 1e-6) - 1
        height = (boxes[..., 4] + boxes[..., 5]) * self.config.image_size[0]
        by_size = sizes[..., 0].float() / height.clamp_min(1) * focal
        places = 2 * boxes[:, None, :, :2].detach() - 1
        seen = F.grid_sample(metres[:, None], places.to(metres.dtype), align_corners=True)[:, 0, 0]
        depth = torch.stack([(direct + by_size + seen) / 3, spread], dim=-1)
        return Answer(self.classes[index](x), boxes, sizes, depth, self.headings[index](x))

    def _sight(self, groups: int) -> Tensor | None:
        """(Q, Q): queries look at those of their group only."""
        if groups == 1:
            return None
        group = torch.arange(groups, device=self.query.device).repeat_interleave(self.config.queries)
        return group[:, None] == group


@register_part("monodetr", "depth_map_loss")
class MonoDETRDepthMapLoss(Procedure):
    """depth_logits (B, bins + 1, H, W); boxes (B, n, 4) and depths (B, n) in terms of -1 to 1 -> loss (1,)."""

    config: MonoDETRConfig

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        logits, boxes = inputs["depth_logits"], inputs["boxes"]
        cells = logits.new_tensor([logits.shape[3], logits.shape[2]])
        centre, half = (boxes[..., :2] + 1) / 2, (0.1 + 0.4 * boxes[..., 2:].abs()) / 2
        corners = torch.cat([(centre - half).clamp_min(0) * cells, (centre + half).clamp_max(1) * cells], dim=-1)
        depths = 2 + 50 * (inputs["depths"] + 1) / 2
        limits = {"least": self.config.depth_min, "most": self.config.depth_max}
        loss = depth_map_loss(logits.permute(0, 2, 3, 1), list(corners), list(depths), **limits)
        return {"loss": loss.view(1)}


@register_part("monodetr", "matched_losses")
class MonoDETRMatchedLosses(Procedure):
    """The losses of n pairs, of depth (n, 2), dims (n, 3) and angle (n, 24), and their sum; (1,) each."""

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        count = len(inputs["depth"])
        metres, sizes = 30 + 25 * inputs["target_depth"][:, 0], 2 + inputs["target_dims"]
        bins, residual = inputs["target_bin"][:, 0], 0.25 * inputs["target_res"][:, 0]
        depth = depth_loss(inputs["depth"], metres).sum().view(1) / count
        size = size_loss(inputs["dims"], sizes).sum().view(1) / count
        heading = heading_loss(inputs["angle"], bins, residual).sum().view(1) / count
        return {"loss_depth": depth, "loss_dim": size, "loss_angle": heading, "total": depth + size + heading}


def named(answer: Answer) -> dict[str, Tensor]:
    """The parts of an answer, as the published outputs are called."""
    return dict(zip(("logits", "boxes", "dims", "depth", "angle"), answer, strict=True))


def reference_outputs(model: MonoDETR, f8: Tensor, f16: Tensor, f32: Tensor, focal: Tensor) -> dict[str, Tensor]:
    """The cases give focal lengths in terms of -1 to 1."""
    lengths = 700 + 50 * focal
    depth, _ = model.answers(f8, f16, f32, lengths, groups=1)
    embedding = depth.embedding.unflatten(1, depth.metres.shape[1:]).permute(0, 3, 1, 2)
    outputs = model(f8, f16, f32, lengths) | {"depth_embed_every8": embedding[:, ::8]}
    return outputs | {"detections": detections(outputs, model.config.top_k)}


VARIANTS = {"monodetr_resnet50": MonoDETRConfig()}

_TRANSFORMER = r"^depthaware_transformer\."

REFERENCE_NAMES = [
    (r"^(input_proj\.\d)\.0\.", r"\1.conv."),
    (r"^(input_proj\.\d)\.1\.", r"\1.norm."),
    (r"^input_proj\.", "projections."),
    (r"^depth_predictor\.depth_bin_values$", "depth.bins"),
    (r"^depth_predictor\.downsample\.", "depth.finer."),
    (r"^depth_predictor\.proj\.", "depth.middle."),
    (r"^depth_predictor\.upsample\.", "depth.coarser."),
    (r"^depth_predictor\.depth_head\.([03])\.", lambda match: f"depth.head.{int(match[1]) // 3}.0."),
    (r"^depth_predictor\.depth_head\.([14])\.", lambda match: f"depth.head.{int(match[1]) // 3}.1."),
    (r"^(depth\.(?:finer|middle|coarser|head\.\d))\.0\.", r"\1.conv."),
    (r"^(depth\.(?:finer|middle|coarser|head\.\d))\.1\.", r"\1.norm."),
    (r"^depth_predictor\.depth_classifier\.", "depth.classifier."),
    (r"^depth_predictor\.depth_pos_embed\.weight$", "depth.places"),
    (r"^depth_predictor\.depth_encoder\.layers\.0\.self_attn\.", "depth.layer.attention."),
    (r"^depth_predictor\.depth_encoder\.layers\.0\.norm1\.", "depth.layer.norms.0."),
    (r"^depth_predictor\.depth_encoder\.layers\.0\.norm2\.", "depth.layer.norms.1."),
    (r"^depth_predictor\.depth_encoder\.layers\.0\.linear(\d)\.", r"depth.layer.mlp.fc\1."),
    (_TRANSFORMER + r"level_embed$", "level"),
    (_TRANSFORMER + r"reference_points\.", "reference."),
    (_TRANSFORMER + r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.\1.attention."),
    (_TRANSFORMER + r"encoder\.layers\.(\d+)\.norm1\.", r"encoder.\1.norm."),
    (_TRANSFORMER + r"encoder\.layers\.(\d+)\.norm2\.", r"encoder.\1.mlp.norm."),
    (_TRANSFORMER + r"encoder\.layers\.(\d+)\.linear(\d)\.", r"encoder.\1.mlp.inner.fc\2."),
    (_TRANSFORMER + r"decoder\.query_scale\.", "unread.scale."),
    (_TRANSFORMER + r"decoder\.ref_point_head\.", "unread.reference."),
    (_TRANSFORMER + r"decoder\.", ""),
    (r"^(layers\.\d+)\.cross_attn_depth\.", r"\1.depth."),
    (r"^(layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(layers\.\d+)\.cross_attn\.", r"\1.cross."),
    (r"^(layers\.\d+)\.sa_([qk])content_proj\.", r"\1.\2_content."),
    (r"^(layers\.\d+)\.sa_([qk])pos_proj\.", r"\1.\2_place."),
    (r"^(layers\.\d+)\.q_", r"\1.query_"),
    (r"^(layers\.\d+)\.k_", r"\1.key_"),
    (r"^(layers\.\d+)\.sa_v_proj\.", r"\1.unread."),
    (r"^(layers\.\d+)\.norm_depth\.", r"\1.norms.0."),
    (r"^(layers\.\d+)\.norm2\.", r"\1.norms.1."),
    (r"^(layers\.\d+)\.norm1\.", r"\1.norms.2."),
    (r"^(layers\.\d+)\.norm3\.", r"\1.norms.3."),
    (r"^(layers\.\d+)\.linear(\d)\.", r"\1.mlp.fc\2."),
    *DEFORMABLE_NAMES,
    (r"^class_embed\.", "classes."),
    (r"^bbox_embed\.", "moves."),
    (r"^dim_embed_3d\.", "sizes."),
    (r"^angle_embed\.", "headings."),
    (r"^depth_embed\.", "distances."),
    (r"^query_embed\.weight$", "query"),
    (r"^label_enc\.", "unread.labels."),
    (r"\.layers\.(\d)\.(weight|bias)$", lambda match: f".{2 * int(match[1])}.{match[2]}"),
]
