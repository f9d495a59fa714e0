"""Deformable DETR: a set of queries, each of which finds one thing, or nothing.

"Deformable DETR: Deformable Transformers for End-to-End Object Detection" (arXiv 2010.04159), with boxes refined from
layer to layer, and queries that are shown noisy boxes in training: "DN-DETR: Accelerate DETR Training by Introducing
Query DeNoising" (arXiv 2203.01305).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, sigmoid_focal_loss

from ommatid.models.config import require, require_divisible, require_positive
from ommatid.models.decoders.deformable_pixels import GROUPS, DeformableEncoder
from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.masked_attention import perceptron
from ommatid.models.decoders.one_stage import PRIOR
from ommatid.models.decoders.set_losses import CLASS, box_losses, focal_loss, pair_up
from ommatid.models.dense import Detector, Targets
from ommatid.models.registry import register
from ommatid.nn.deformable_attention import DeformableAttention
from ommatid.nn.feedforward import MLP
from ommatid.nn.query_attention import QueryAttention
from ommatid.nn.sine_position import waves
from ommatid.ops.deformable_attention import Sizes

Step = tuple[Tensor, Tensor]
"""Class logits (B, Q, K) and boxes (B, Q, 4), centre and sides as shares of the padded image."""


@dataclass(frozen=True, kw_only=True)
class DeformableDETRConfig(EncoderConfig):
    """`dim` is the width of the pyramid and the queries. `noise` moves shown boxes by up to that share of their sides.

    `shown` is the number of noisy copies of each box that training shows; 0 for none.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    dim: int = 256
    heads: int = 8
    mlp_dim: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_queries: int = 300
    shown: int = 5
    noise: float = 0.4

    def check(self) -> None:
        super().check()
        require_positive(
            strides=self.strides, mlp_dim=self.mlp_dim, num_queries=self.num_queries, decoder_layers=self.decoder_layers
        )
        require(self.dim > 0 and self.dim % GROUPS == 0, "dim", self.dim, f"a multiple of {GROUPS}")
        require_divisible(self.dim, self.heads)
        require(self.encoder_layers >= 0, "encoder_layers", self.encoder_layers, "0 or more")
        require(self.shown >= 0, "shown", self.shown, "0 or more")
        require(0 <= self.noise < 1, "noise", self.noise, "from 0 up to, not including, 1")


class BoxQueryLayer(nn.Module):
    """Queries look at one another, around their boxes in all maps, and think: (B, Q, C) -> (B, Q, C); post-norm.

    Args:
        dim: C.
        heads: of both attentions.
        levels: number of maps.
        mlp_dim: inner width.
        points: places that a head looks at in each map.
        dropout: of each branch's answer and inside the MLP, in training.
    """

    def __init__(
        self, dim: int, heads: int, levels: int, mlp_dim: int, *, points: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = QueryAttention(dim, heads)
        self.cross = DeformableAttention(dim, heads, levels, points)
        self.mlp = MLP(dim, mlp_dim, act=nn.Sequential(nn.ReLU(), nn.Dropout(dropout)))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        boxes: Tensor,
        tokens: Tensor,
        sizes: Sizes,
        allowed: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: (B, Q, C). place: added to x where it is asked with; broadcastable to it.
            boxes: (B, Q, 4), centre and sides as shares of the maps, or centres only; by level too, as `cross` takes.
            tokens, sizes, valid: as `cross` takes.
            allowed: as `attention` takes.
        """
        sides = boxes[..., 2:] if boxes.shape[-1] == 4 else None
        x = self.norms[0](x + self.dropout(self.attention(x + place, x + place, x, allowed)))
        x = self.norms[1](x + self.dropout(self.cross(x + place, boxes[..., :2], tokens, sizes, sides, valid)))
        return self.norms[2](x + self.dropout(self.mlp(x)))


@register("deformable_detr", DeformableDETRConfig)
class DeformableDETR(Detector):
    """A detector of boxes on any backbone, without anchors and without suppression of overlaps.

    `forward` gives class_logits (B, Q, K) and boxes (B, Q, 4), centre and sides as shares of the padded image.
    """

    config: DeformableDETRConfig

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__(config)
        dim, levels = config.dim, len(config.strides)
        self.num_classes = config.num_classes
        self.encoder = Encoder(config, config.strides)
        self.no_decay = (*self.encoder.backbone.no_decay, "level", "query", "anchors", "shown")
        self.decoder = DeformableEncoder(
            self.encoder.channels, dim, heads=config.heads, mlp_dim=config.mlp_dim, depth=config.encoder_layers
        )
        self.query = nn.Parameter(torch.randn(config.num_queries, dim))
        centres, sides = torch.rand(config.num_queries, 2), torch.full((config.num_queries, 2), 0.2)
        self.anchors = nn.Parameter(torch.cat([centres, sides], dim=1).logit(eps=1e-3))
        self.shown = nn.Parameter(torch.randn(config.num_classes, dim))
        self.place = perceptron(2 * dim, dim, dim)
        self.layers = nn.ModuleList(
            BoxQueryLayer(dim, config.heads, levels, config.mlp_dim) for _ in range(config.decoder_layers)
        )
        self.classes = nn.ModuleList(class_layer(dim, config.num_classes) for _ in self.layers)
        self.moves = nn.ModuleList(move_layers(dim) for _ in self.layers)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        batch = image.shape[0]
        x, boxes = self.query.expand(batch, -1, -1), self.anchors.sigmoid().expand(batch, -1, -1)
        class_logits, found = self._steps(self.decoder(self.encoder(image)), x, boxes, None)[-1]
        return {"class_logits": class_logits, "boxes": found}

    def _steps(self, maps: list[Tensor], x: Tensor, boxes: Tensor, allowed: Tensor | None) -> list[Step]:
        """What the queries say after each layer, of the boxes that they start from."""
        sizes = [(level.shape[1], level.shape[2]) for level in maps]
        tokens = torch.cat([level.flatten(1, 2) for level in maps], dim=1)
        steps = []
        for layer, classes, moves in zip(self.layers, self.classes, self.moves, strict=True):
            place = self.place(waves(2 * math.pi * boxes, self.config.dim // 2).flatten(-2))
            x = layer(x, place, boxes, tokens, sizes, allowed)
            refined = (boxes.logit(eps=1e-4) + moves(x)).sigmoid()
            steps.append((classes(x), refined))
            boxes = refined.detach()
        return steps

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Focal loss of the classes, L1 and IoU of the boxes after every layer; of shown boxes too."""
        truths = [self._relative(target["boxes"], image) for target in targets]
        labels = [target["labels"].long() for target in targets]
        batch = image.shape[0]
        x, boxes = self.query.expand(batch, -1, -1), self.anchors.sigmoid().expand(batch, -1, -1)
        hints, places = self._shown(truths, labels)
        extra = hints.shape[1]
        allowed = self._sight(extra, max(map(len, truths)), image.device)
        x, boxes = torch.cat([hints, x], dim=1), torch.cat([places, boxes], dim=1)
        steps = self._steps(self.decoder(self.encoder(image)), x, boxes, allowed)
        count = max(sum(map(len, truths)), 1)
        sums: dict[str, Tensor] = {}
        for class_logits, found in steps:
            logits, boxes = class_logits[:, extra:].float(), found[:, extra:].float()
            pairs = pair_up(logits.detach().sigmoid(), boxes.detach(), truths, labels)
            terms = {"classes": focal_loss(logits, pairs, count)} | pairs.box_losses(boxes, count)
            if extra:
                shown = self._shown_losses(class_logits[:, :extra].float(), found[:, :extra].float(), truths, labels)
                terms |= {f"shown_{name}": value for name, value in shown.items()}
            sums = {name: value + sums.get(name, 0.0) for name, value in terms.items()}
        return sums

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        answer = self(image)
        rows, columns = self.encoder.padded_size(image.shape[2], image.shape[3])
        centre_x, centre_y, width, height = answer["boxes"].float().unbind(-1)
        x, y, half_width, half_height = centre_x * columns, centre_y * rows, width * columns / 2, height * rows / 2
        edges = [x - half_width, y - half_height, x + half_width, y + half_height]
        return torch.stack(edges, -1), answer["class_logits"].float().sigmoid()

    def _relative(self, boxes: Tensor, image: Tensor) -> Tensor:
        """x1 y1 x2 y2 in pixels -> centre and sides as shares of the padded image."""
        rows, columns = self.encoder.padded_size(image.shape[2], image.shape[3])
        return box_convert(boxes.float(), "xyxy", "cxcywh") / boxes.new_tensor([columns, rows, columns, rows]).float()

    def _shown(self, truths: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries (B, N, C) made of the labels of all boxes, some wrong, and the boxes (B, N, 4), moved a little.

        N is `shown` times the most boxes that an image has: copy after copy of all, with blanks behind.
        """
        config, most = self.config, max(map(len, truths))
        kinds = torch.zeros(len(truths), most, dtype=torch.long, device=self.query.device)
        places = kinds.new_full((len(truths), most, 4), 0, dtype=torch.float32) + 0.5
        for index, (boxes, label) in enumerate(zip(truths, labels, strict=True)):
            kinds[index, : len(label)], places[index, : len(boxes)] = label, boxes
        kinds, places = kinds.repeat(1, config.shown), places.repeat(1, config.shown, 1)
        wrong = torch.rand_like(places[..., 0]) < config.noise / 2
        kinds = torch.where(wrong, torch.randint_like(kinds, config.num_classes), kinds)
        moves = (2 * torch.rand_like(places) - 1) * config.noise
        centres, sides = places.chunk(2, dim=-1)
        moved = torch.cat([centres + moves[..., :2] * sides / 2, sides * (1 + moves[..., 2:])], dim=-1)
        return self.shown[kinds], moved.clamp(1e-3, 1 - 1e-3)

    def _sight(self, extra: int, most: int, device: torch.device) -> Tensor | None:
        """(N + Q, N + Q): who may look at whom. Copies see their own copy and the queries, which see no copy."""
        if not extra:
            return None
        copy = torch.arange(extra, device=device) // most
        owner = F.pad(copy, (0, self.config.num_queries), value=-1)
        return (owner == -1) | (owner[:, None] == owner)

    def _shown_losses(
        self, class_logits: Tensor, found: Tensor, truths: list[Tensor], labels: list[Tensor]
    ) -> dict[str, Tensor]:
        """Every copy is for the box it was made of."""
        most = class_logits.shape[1] // self.config.shown
        real = torch.tensor([[place < len(label) for place in range(most)] for label in labels], device=found.device)
        real = real.repeat(1, self.config.shown)
        kinds = torch.cat([label.repeat(self.config.shown) for label in labels])
        boxes = torch.cat([truth.repeat(self.config.shown, 1) for truth in truths])
        count = max(len(kinds), 1)
        one_hot = F.one_hot(kinds, self.num_classes).to(class_logits.dtype)
        focal = sigmoid_focal_loss(class_logits[real], one_hot, reduction="sum")
        return {"classes": CLASS * focal / count} | box_losses(found[real], boxes, count)


def class_layer(dim: int, num_classes: int) -> nn.Linear:
    """Class logits that start at the prior."""
    layer = nn.Linear(dim, num_classes)
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer


def move_layers(dim: int, numbers: int = 4, *, sides: float = 0.0) -> nn.Sequential:
    """How a box of so many numbers is refined, in logits: at first not at all, but for the sides behind its centre."""
    layers = perceptron(dim, dim, dim, numbers)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[2:], sides)
    return layers


SMALL_SIDES = -2.0
"""Logits of the sides of boxes that are a tenth of the image."""
