"""ViDT and ViDT+: a Swin Transformer that carries detection tokens, with heads on them, or a decoder of few layers.

"ViDT: An Efficient and Effective Fully Transformer-based Object Detector" (arXiv 2110.03921) and "An Extendable,
Efficient and Effective Transformer-based Object Detector" (arXiv 2204.07962).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ommatid.models.backbone import channels_last
from ommatid.models.config import require
from ommatid.models.decoders.box_refinement import refined
from ommatid.models.decoders.deformable_detr import SMALL_SIDES, BoxQueryLayer, class_layer, move_layers
from ommatid.models.decoders.deformable_pixels import GROUPS, xavier_conv
from ommatid.models.decoders.masked_attention import perceptron
from ommatid.models.decoders.pyramid_fusion import PyramidFusion
from ommatid.models.decoders.vidt_config import DIM, TOKEN_CLASSES, VARIANTS, ViDTConfig
from ommatid.models.decoders.vidt_losses import Things, decoder_losses, plain_losses, token_losses
from ommatid.models.decoders.vidt_swin import DetectionSwin, resized_mask
from ommatid.models.dense import Detections, Detector, Targets
from ommatid.models.names import DEFORMABLE_NAMES
from ommatid.models.registry import register, register_part
from ommatid.nn.norm import GroupNorm
from ommatid.ops.deformable_attention import cell_centres, split_levels
from ommatid.ops.mask_vectors import masks_of, pasted

LEVELS = 4
DROPOUT = 0.1
MARGIN = 0.01
"""Cells so near to the border of the image, in shares of it, have no label."""


class ProjectedTokens(nn.Sequential):
    """Linear layer, and group norm over all tokens: (B, D, C_in) -> (B, D, C)."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__(xavier_conv(in_dim, dim), GroupNorm(GROUPS, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens[:, :, None])[:, :, 0]


class Step(NamedTuple):
    """What the queries say after a layer: logits (B, D, K), boxes (B, D, 4), ious (B, D, 1), vectors (B, D, n)."""

    logits: Tensor
    boxes: Tensor
    ious: Tensor | None
    vectors: Tensor | None


class Memory(NamedTuple):
    """What the queries look at: cells (B, N, C) of all maps, their sizes, and what of them is no padding.

    valid: (B, N) booleans, or None; ratios: (B, levels, 2), which share of the width and height is valid, or None.
    """

    tokens: Tensor
    sizes: list[tuple[int, int]]
    valid: Tensor | None
    ratios: Tensor | None


class ViDTBase(Detector):
    """What both methods have: the backbone, and which part of an image is no padding."""

    config: ViDTConfig
    no_decay = (".table", "body.tokens", "body.places", "level")

    def __init__(self, config: ViDTConfig, *, reduced_dim: int | None) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        # Which part of an image is valid goes by its place in the batch.
        self.batch_dependent = config.valid_sizes is not None
        self.body = DetectionSwin(
            config.in_channels,
            config.dims,
            config.depths,
            config.heads,
            window_size=config.window_size,
            mlp_ratio=config.mlp_ratio,
            tokens=config.det_tokens,
            place_dim=config.pos_dim,
            cross_stages=config.cross_stages,
            reduced_dim=reduced_dim,
            drop_path_rate=config.drop_path_rate,
        )

    def seen(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """The maps, the detection tokens (B, D, C), and what of the image is valid, (B, H, W) or None for all."""
        valid = self._valid(image)
        whole = image if valid is None else image * valid[:, None]
        return *self.body(channels_last(whole), valid), valid

    def _valid(self, image: Tensor) -> Tensor | None:
        sizes = self.config.valid_sizes
        if sizes is None:
            return None
        batch, _, height, width = image.shape
        ends = torch.tensor([sizes[index % len(sizes)] for index in range(batch)], device=image.device)
        rows, columns = (torch.arange(side, device=image.device) for side in (height, width))
        return (rows[:, None] < ends[:, :1, None]) & (columns < ends[:, 1:, None])

    def _in_pixels(self, boxes: Tensor, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        corners = box_convert(boxes.float(), "cxcywh", "xyxy")
        return corners * corners.new_tensor([width, height, width, height])


@register("vidt", ViDTConfig)
class ViDT(ViDTBase):
    """Detection tokens are the queries of a decoder over four maps: boxes without suppression of overlaps.

    `forward` gives logits (B, D, K) and boxes (B, D, 4), centre and sides as shares of the image, of the last layer;
    the same with _0, _1, ... of the tokens themselves and each earlier layer; with `iou_aware` ious (B, D, 1), logits
    of the overlap; with `vector_dim` vectors (B, D, vector_dim); with `token_label` token_logits_0, ... (B, h, w, 91)
    of each map. With `epff` maps come coarse to fine.
    """

    def __init__(self, config: ViDTConfig) -> None:
        super().__init__(config, reduced_dim=DIM)
        channels = (*config.dims[1:], DIM)
        self.fusion = PyramidFusion(channels, DIM) if config.epff else None
        projections = [nn.Sequential(xavier_conv(dim, DIM), GroupNorm(GROUPS, DIM)) for dim in channels]
        self.projections = nn.ModuleList([] if config.epff else projections)
        self.target = ProjectedTokens(config.dims[-1], DIM)
        self.place = ProjectedTokens(config.pos_dim, DIM)
        self.reference = nn.Linear(DIM, 2)
        self.layers = nn.ModuleList(
            BoxQueryLayer(DIM, config.decoder_heads, LEVELS, config.ffn_dim, points=config.points, dropout=DROPOUT)
            for _ in range(config.decoder_layers)
        )
        heads = config.decoder_layers + 1 if config.box_refine else 1
        self.classes = nn.ModuleList(class_layer(DIM, config.num_classes) for _ in range(heads))
        self.moves = nn.ModuleList(move_layers(DIM, sides=0.0 if head else SMALL_SIDES) for head in range(heads))
        overlap_heads = heads if config.iou_aware else 0
        self.overlaps = nn.ModuleList(perceptron(DIM, DIM, DIM, 1) for _ in range(overlap_heads))
        vector_dims = (DIM, config.vector_hidden, config.vector_hidden, config.vector_dim)
        self.vector = perceptron(*(dim for dim in vector_dims if dim)) if config.vector_dim else None
        labels = nn.Sequential(nn.Linear(DIM, DIM), nn.LayerNorm(DIM), class_layer(DIM, TOKEN_CLASSES))
        self.label = labels if config.token_label else None
        # Published, but never read.
        self.level = nn.Parameter(torch.randn(LEVELS, DIM), requires_grad=False)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps, things, valid = self.seen(image)
        memory = self.memory(maps, valid)
        *earlier, last = self.steps(things, memory)
        outputs = {f"{name}_{index}": value for index, step in enumerate(earlier) for name, value in named(step)}
        vectors = {} if last.vectors is None else {"vectors": last.vectors}
        return outputs | dict(named(last)) | vectors | self._token_logits(memory)

    def memory(self, maps: Sequence[Tensor], valid: Tensor | None) -> Memory:
        """What the decoder looks at, of the maps of the stages and of the reduced one."""
        projected = self.fused(maps)
        sizes = [(level.shape[1], level.shape[2]) for level in projected]
        tokens = torch.cat([level.flatten(1, 2) for level in projected], dim=1)
        if valid is None:
            return Memory(tokens, sizes, None, None)
        masks = [resized_mask(valid, size) for size in sizes]
        ratios = [torch.stack([mask[:, 0].float().mean(-1), mask[:, :, 0].float().mean(-1)], -1) for mask in masks]
        return Memory(tokens, sizes, torch.cat([mask.flatten(1) for mask in masks], dim=1), torch.stack(ratios, dim=1))

    def fused(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps (B, h, w, C) in the order that the decoder has them in."""
        if self.fusion is not None:
            return self.fusion(maps[1:])
        return [project(level) for project, level in zip(self.projections, maps[1:], strict=True)]

    def steps(self, things: Tensor, memory: Memory) -> list[Step]:
        """What the queries say at first, and after each layer."""
        x, place = self.target(things), self.place(self.body.places)
        start = self.reference(place).sigmoid().expand(len(x), -1, -1)
        steps = [self._say(0, x, start)]
        boxes = steps[0].boxes.detach() if self.config.box_refine else start
        for index, layer in enumerate(self.layers, start=1):
            seen = boxes
            if memory.ratios is not None:
                scale = memory.ratios.repeat(1, 1, boxes.shape[-1] // 2)
                seen = boxes[:, :, None] * scale[:, None]
            x = layer(x, place, seen, memory.tokens, memory.sizes, valid=memory.valid)
            steps.append(self._say(index, x, boxes))
            boxes = steps[-1].boxes.detach() if self.config.box_refine else start
        return steps

    def _say(self, index: int, x: Tensor, reference: Tensor) -> Step:
        """What queries that stand at the reference, (B, D, 2 or 4), say after layer `index`."""
        head = index if self.config.box_refine else 0
        overlaps = self.overlaps[head](x) if self.config.iou_aware else None
        vectors = None if self.vector is None else self.vector(x)
        return Step(self.classes[head](x), refined(reference, self.moves[head](x)), overlaps, vectors)

    def _token_logits(self, memory: Memory) -> dict[str, Tensor]:
        """Class logits of the cells of each map; of cells that are padding or near to the border, of zeros."""
        if self.label is None:
            return {}
        share = cell_centres(memory.sizes, memory.tokens.device)
        if memory.ratios is not None:
            counts = torch.tensor([rows * columns for rows, columns in memory.sizes], device=share.device)
            share = share / memory.ratios.repeat_interleave(counts, dim=1)
        inside = ((share > MARGIN) & (share < 1 - MARGIN)).all(-1).expand(len(memory.tokens), -1)
        inside = inside if memory.valid is None else inside & memory.valid
        logits = split_levels(self.label(memory.tokens * inside[..., None]), memory.sizes)
        pairs = enumerate(zip(logits, memory.sizes, strict=True))
        return {f"token_logits_{index}": cells.unflatten(1, size) for index, (cells, size) in pairs}

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps, things, valid = self.seen(image)
        last = self.steps(things, self.memory(maps, valid))[-1]
        return self._in_pixels(last.boxes, image), last.logits.float().sigmoid()

    @torch.no_grad()
    def instances(self, image: Tensor, *, score_threshold: float = 0.05, most: int = 100) -> Detections:
        """As `detect`, with the masks (n, H, W) that the vectors of the queries stand for.

        Raises:
            ValueError: the model has no vectors.
        """
        require(self.vector is not None, "vector_dim", self.config.vector_dim, "a positive integer, for masks")
        maps, things, valid = self.seen(image)
        last = self.steps(things, self.memory(maps, valid))[-1]
        assert last.vectors is not None
        boxes, found = self._in_pixels(last.boxes, image), []
        for scores, box, vectors in zip(last.logits.float().sigmoid(), boxes, last.vectors, strict=True):
            best, index = scores.flatten().sort(descending=True)
            chosen = index[best >= score_threshold][:most]
            queries, labels = chosen // self.num_classes, chosen % self.num_classes
            masks = pasted(masks_of(vectors[queries]), box[queries], (image.shape[2], image.shape[3]))
            found.append({"boxes": box[queries], "scores": best[: len(chosen)], "labels": labels, "masks": masks})
        return found

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Focal loss of the classes, L1 and IoU of the boxes after every layer, and the terms of what is switched on.

        Of mask vectors, and of labels of cells, a thing's box stands for its mask where there is none.
        """
        maps, tokens, valid = self.seen(image)
        memory = self.memory(maps, valid)
        things = Things.of(targets, image)
        terms = decoder_losses(self.steps(tokens, memory), things)
        labels = list(self._token_logits(memory).values())
        return terms | token_losses(labels, things) if labels else terms


@register_part("vidt", "vidt_wo_neck")
class ViDTWithoutNeck(ViDTBase):
    """Heads on the detection tokens alone.

    `forward` gives logits (B, D, K + 1), the last for "nothing", and boxes (B, D, 4), centre and sides as shares.
    """

    def __init__(self, config: ViDTConfig) -> None:
        super().__init__(config, reduced_dim=None)
        dim = config.decoder_dim
        self.target = ProjectedTokens(config.dims[-1], dim)
        self.classes = perceptron(dim, dim, dim, config.num_classes + 1)
        self.moves = perceptron(dim, dim, dim, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.target(self.seen(image)[1])
        return {"logits": self.classes(x), "boxes": self.moves(x).sigmoid()}

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        answer = self(image)
        return self._in_pixels(answer["boxes"], image), answer["logits"].float().softmax(-1)[..., :-1]

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Cross-entropy of the classes, L1 and IoU of the boxes."""
        answer = self(image)
        return plain_losses(answer["logits"].float(), answer["boxes"].float(), Things.of(targets, image))


def named(step: Step) -> list[tuple[str, Tensor]]:
    """What every step says, by name."""
    parts = [("logits", step.logits), ("boxes", step.boxes)]
    return parts if step.ious is None else [*parts, ("ious", step.ious)]


def reference_outputs(model: ViDT | ViDTWithoutNeck, image: Tensor) -> dict[str, Tensor]:
    maps, things, _ = model.seen(image)
    outputs = {f"stage{index}": level.permute(0, 3, 1, 2) for index, level in enumerate(maps)}
    outputs["det"] = things.mT
    if isinstance(model, ViDT) and model.fusion is not None:
        outputs["fused_fine_every8"] = model.fused(maps)[-1].permute(0, 3, 1, 2)[:, ::8]
    return outputs | model(image)


__all__ = ["VARIANTS", "ViDT", "ViDTWithoutNeck"]

REFERENCE_NAMES = [
    (r"^backbone\.det_token$", "body.tokens"),
    (r"^backbone\.det_pos_embed$", "body.places"),
    (r"^backbone\.patch_embed\.", "body.stem."),
    (r"^backbone\.norm([123])\.", lambda match: f"body.unread.map_norm.{int(match[1]) - 1}."),
    (r"^backbone\.layers\.(\d)\.downsample\.expansion\.", r"body.unread.expansion.\1."),
    (r"^backbone\.layers\.(\d)\.downsample\.norm2\.", r"body.unread.merging_norm.\1."),
    (r"^backbone\.layers\.(\d)\.downsample\.", r"body.merging.\1."),
    (r"^backbone\.layers\.(\d)\.blocks\.", r"body.stages.\1."),
    (r"\.attn\.relative_position_bias_table$", ".token.inner.window.bias.table"),
    (r"\.attn\.(qkv|proj)\.", r".token.inner.window.\1."),
    (r"\.det_pos_linear\.", ".token.inner.place."),
    (r"^body(.*)\.norm1\.", r"body\1.token.norm."),
    (r"^body(.*)\.norm2\.", r"body\1.channel.norm."),
    (r"^body(.*)\.mlp\.", r"body\1.channel.inner."),
    (r"^transformer\.level_embed$", "level"),
    (r"^transformer\.reference_points\.", "reference."),
    (r"^transformer\.enc_output\.", "label.0."),
    (r"^transformer\.enc_output_norm\.", "label.1."),
    (r"^transformer\.token_embed\.", "label.2."),
    (r"^transformer\.decoder\.", ""),
    (r"^(layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(layers\.\d+)\.cross_attn\.", r"\1.cross."),
    (r"^(layers\.\d+)\.norm2\.", r"\1.norms.0."),
    (r"^(layers\.\d+)\.norm1\.", r"\1.norms.1."),
    (r"^(layers\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"^(layers\.\d+)\.linear(\d)\.", r"\1.mlp.fc\2."),
    *DEFORMABLE_NAMES,
    (r"^input_proj\.", "projections."),
    (r"^(class|bbox|iou)_embed\.(layers|weight|bias)", r"\1_embed.0.\2"),
    (r"^class_embed\.", "classes."),
    (r"^bbox_embed\.", "moves."),
    (r"^iou_embed\.", "overlaps."),
    (r"^vector_embed\.", "vector."),
    (r"^tgt_proj\.", "target."),
    (r"^query_pos_proj\.", "place."),
    (r"\.layers\.(\d)\.(weight|bias)$", lambda match: f".{2 * int(match[1])}.{match[2]}"),
    (r"^fusion\.multi_scaler\.layer_(\d)_rn\.", r"fusion.projections.\1.0."),
    (r"^fusion\.multi_scaler\.p_norm_(\d)\.", r"fusion.projections.\1.1."),
    (r"^fusion\.multi_scaler\.refinenet_(\d)\.smoothing\.", r"fusion.steps.\1.smooth."),
    (r"^fusion\.multi_scaler\.refinenet_(\d)\.resConfUnit1\.", r"fusion.steps.\1.before."),
    (r"^fusion\.multi_scaler\.refinenet_(\d)\.resConfUnit2\.", r"fusion.steps.\1.after."),
    (r"^(fusion.*)\.conv1\.", r"\1.reduce."),
    (r"^(fusion.*)\.conv2\.", r"\1.conv."),
    (r"^(fusion.*)\.conv3\.", r"\1.expand."),
]


WITHOUT_NECK = {"input_proj.": "target.", "class_embed.": "classes.", "bbox_embed.": "moves."}


def convert_reference(state: dict[str, Tensor], model: ViDT | ViDTWithoutNeck) -> dict[str, Tensor]:
    """Without a neck there is one head of each kind, and one projection."""
    if isinstance(model, ViDT):
        return state
    pattern = re.compile("|".join(f"^{re.escape(name)}" for name in WITHOUT_NECK))
    return {pattern.sub(lambda match: WITHOUT_NECK[match[0]], name): value for name, value in state.items()}
