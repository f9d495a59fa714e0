"""DToP: tokens that are easy to tell leave a plain segmentation network early, with the answer they got.

"Dynamic Token Pruning in Plain Vision Transformers for Semantic Segmentation" (arXiv 2308.01045), on SegViT.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.mask_attention import ClassMasks, MaskAttentionHead
from ommatid.models.dense import MaskSegmenter
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import resample_sequence
from ommatid.nn.trunks.kept import Gathered, gather_all
from ommatid.ops.resize import resample
from ommatid.ops.windows import pad_to_multiple

ABSENT_WEIGHT, FOCAL_WEIGHT = 0.1, 20.0

LEAST = 1e-6
"""Of a score whose logarithm is taken."""

BEHIND_MASKS = ("class_embed", "cross.v", "cross.proj", "norms.1", "norms.2", "mlp")
"""Of the last layer of a head, and what follows: read for the presence of classes, not for their masks."""


@dataclass(frozen=True, kw_only=True)
class DToPConfig(PartConfig):
    """Heads are behind the blocks `head_after`, counted from 0, of which the last is the network's.

    `thresholds` has one score for each head but the last; 1 lets nothing leave, which is how it is trained at first.
    The function "exit_rule" reads `threshold` and `keep_per_class`, "loss" reads `num_classes`.
    """

    function: Literal["segmentor", "exit_rule", "loss"] = "segmentor"
    in_channels: int = 3
    image_size: int = 512
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    head_after: tuple[int, ...] = (5, 7, 11)
    head_dim: int = 384
    head_heads: int = 6
    decoder_layers: int = 3
    num_classes: int = 150
    thresholds: tuple[float, ...] = (1.0, 1.0)
    threshold: float = 0.9
    keep_per_class: int = 5
    drop_path_rate: float = 0.0

    def check(self) -> None:
        require_positive(depth=self.depth, num_classes=self.num_classes, decoder_layers=self.decoder_layers)
        require(self.keep_per_class >= 0, "keep_per_class", self.keep_per_class, "0 or more")
        if self.function != "segmentor":
            return
        require_divisible(self.dim, self.heads)
        require_divisible(self.head_dim, self.head_heads, "head_heads")
        rising = list(self.head_after) == sorted(set(self.head_after)) and self.head_after[0] >= 0
        ends = self.head_after[-1:] == (self.depth - 1,)
        require(ends and rising, "head_after", self.head_after, f"rising block numbers, the last {self.depth - 1}")
        heads = len(self.head_after) - 1
        require(
            len(self.thresholds) == heads, "thresholds", self.thresholds, f"one for each of the first {heads} heads"
        )


class Seen(NamedTuple):
    """What one head had and gave: the tokens that were still there; its answer on them; mask logits of all tokens
    (B, K, N), those of exited ones as they were when they left; and those of its tokens that go on."""

    had: Gathered
    answer: ClassMasks
    canvas: Tensor
    left: Gathered

    @property
    def scores(self) -> Tensor:
        """(B, K, N): how much of each class every token is."""
        return self.answer.presence[..., None] * self.canvas.sigmoid()


@register("dtop", DToPConfig)
class DToP(MaskSegmenter):
    """Image (B, C_in, H, W) -> the logarithm of scores from 0 to 1 (B, K, H, W).

    Images of any size are padded to whole patches. Training is on the answers of all heads; without it, heads at which
    nothing can leave are not asked. Under autocast too the answer is computed in the precision of the weights: scores
    get thresholded.
    """

    config: DToPConfig
    no_decay = ("position", "class_token")

    def __init__(self, config: DToPConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        side = config.image_size // config.patch_size
        self.grid = (side, side)
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        # Published weights have a class token, and a place for it, that nothing reads.
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.dim), requires_grad=False)
        self.position = nn.Parameter(torch.zeros(1, 1 + side**2, config.dim))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                Attention(config.dim, config.heads),
                MLP(config.dim, int(config.dim * config.mlp_ratio)),
                norm=LayerNorm,
                drop_path=rate,
            )
            for rate in rates
        )
        self.heads = nn.ModuleList(
            MaskAttentionHead(
                config.dim,
                config.head_dim,
                config.num_classes,
                heads=config.head_heads,
                depth=config.decoder_layers,
            )
            for _ in config.head_after
        )
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        return self.scores(image).clamp_min(LEAST).log()

    def scores(self, image: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, K, H, W), from 0 to 1."""
        *_, last = self._steps_of_answer(image)
        grid, (height, width) = self._grid(image), image.shape[-2:]
        whole = resample(last.scores.mT.unflatten(1, grid), self._padded(grid), mode="bilinear")
        return whole[:, :height, :width].permute(0, 3, 1, 2)

    def left_early(self, image: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, h, w) booleans: the tokens that the last head has no more."""
        *_, last = self._steps_of_answer(image)
        return ~last.had.scatter_kept(last.canvas.shape[2]).unflatten(1, self._grid(image))

    def losses(self, image: Tensor, label: Tensor, *, ignored: int = 255) -> dict[str, Tensor]:
        """The terms of the loss, each summed over the heads."""
        grid = self._grid(image)
        rows, columns = self._padded(grid)
        whole = F.pad(label, (0, columns - label.shape[2], 0, rows - label.shape[1]), value=ignored)
        of_heads = [
            mask_losses(head.answer.class_logits, head.canvas.unflatten(2, grid), whole, ignored=ignored)
            for head in self.steps(image)
        ]
        return {name: torch.stack([terms[name] for terms in of_heads]).sum() for name in of_heads[0]}

    def idle_parameters(self) -> set[str]:
        """Of the heads before the last, what at most decides which tokens leave. The losses depend on all."""
        last = f"layers.{self.config.decoder_layers - 1}."
        return {
            f"heads.{number}.{name}"
            for number, head in enumerate(self.heads[:-1])
            for name, _ in head.named_parameters()
            if number not in self._asked or name.removeprefix(last).startswith(BEHIND_MASKS)
        }

    def steps(self, image: Tensor, asked: Collection[int] | None = None) -> Iterator[Seen]:
        """What each head had and gave; of these heads only, where given."""
        config, blocks = self.config, iter(self.blocks)
        padded = pad_to_multiple(channels_last(image), (config.patch_size, config.patch_size))
        position = resample_sequence(self.position, self.grid, self._grid(image), antialias=False)
        state = gather_all(self.stem(padded).flatten(1, 2) + position[:, 1:])
        batch, count = state.place.shape
        canvas = state.tokens.new_zeros(batch, config.num_classes, count)
        before = -1
        for i, (head, after) in enumerate(zip(self.heads, config.head_after, strict=True)):
            state = state.through([next(blocks) for _ in range(after - before)])
            before = after
            if asked is not None and i not in asked:
                continue
            answer = head(state.tokens, state.kept)
            canvas = _drawn(canvas, answer.mask_logits, state)
            had = state
            if i < len(config.thresholds):
                pred = answer.presence[..., None] * answer.mask_logits.sigmoid()
                gone = exited_after(pred, had.kept == 0, config.thresholds[i], keep_per_class=config.keep_per_class)
                state = had.keep((~gone).to(had.kept))
            yield Seen(had, answer, canvas, state)

    @property
    def _asked(self) -> set[int]:
        """The heads that the answer depends on."""
        return {i for i, threshold in enumerate(self.config.thresholds) if threshold < 1} | {len(self.heads) - 1}

    def _steps_of_answer(self, image: Tensor) -> Iterator[Seen]:
        with torch.autocast(image.device.type, enabled=False):
            yield from self.steps(image.to(self.position.dtype), self._asked)

    def _padded(self, grid: tuple[int, int]) -> tuple[int, int]:
        return grid[0] * self.config.patch_size, grid[1] * self.config.patch_size

    def _grid(self, image: Tensor) -> tuple[int, int]:
        patch = self.config.patch_size
        return -(-image.shape[2] // patch), -(-image.shape[3] // patch)


def _drawn(canvas: Tensor, logits: Tensor, state: Gathered) -> Tensor:
    """The canvas (B, K, N) with the logits (B, K, M) of the tokens that are kept."""
    place = state.place[:, None].expand_as(logits)
    logits = torch.where(state.kept[:, None] > 0, logits.to(canvas.dtype), canvas.gather(2, place))
    return canvas.scatter(2, place, logits)


def exited_after(pred: Tensor, exited: Tensor, threshold: float, *, keep_per_class: int = 5) -> Tensor:
    """Which tokens have left, once those with a score above the threshold do: (B, N) booleans.

    Of each class the best few stay, so that it keeps a context.

    Args:
        pred: (B, K, N), scores. exited: (B, N) booleans, of those that left before.
        threshold: 1 or more lets nothing leave.
        keep_per_class: how many stay.
    """
    best, owner = pred.detach().max(1)
    leaves = (best > threshold) & ~exited if threshold < 1 else torch.zeros_like(exited)
    own = owner[:, None] == torch.arange(pred.shape[1], device=pred.device)[:, None]
    ranked = torch.where(own & leaves[:, None], best[:, None], -torch.inf)
    context = ranked.topk(min(keep_per_class, pred.shape[2]), dim=-1).indices
    stays = torch.zeros_like(own).scatter(-1, context, True).logical_and(own).any(1)
    return exited | (leaves & ~stays)


def mask_losses(class_logits: Tensor, mask_logits: Tensor, label: Tensor, *, ignored: int = 255) -> dict[str, Tensor]:
    """What one head is to be told: which classes there are, and the mask of each.

    Args:
        class_logits: (B, K, 2), present and absent. mask_logits: (B, K, h, w).
        label: (B, H, W) integers. `ignored` belongs to no class; it counts against every mask.

    Returns:
        loss_ce, loss_mask (focal) and loss_dice, weighted.
    """
    classes = torch.arange(class_logits.shape[1], device=label.device)
    targets = (label[:, None] == classes[:, None, None]) & (label != ignored)[:, None]
    present = targets.flatten(2).any(-1)
    weight = torch.tensor([1.0, ABSENT_WEIGHT], device=label.device)
    cross_entropy = F.cross_entropy(class_logits.float().flatten(0, 1), (~present).long().flatten(), weight=weight)
    mask_logits = mask_logits.float()
    y = targets[present].to(mask_logits.dtype)
    t = F.interpolate(mask_logits[present][:, None], size=label.shape[1:], mode="bilinear")[:, 0]
    pairs = max(len(y), 1)
    p = t.sigmoid()
    certainty = torch.where(y > 0, p, 1 - p)
    balance = torch.where(y > 0, 0.25, 0.75)
    focal = balance * (1 - certainty).square() * F.binary_cross_entropy_with_logits(t, y, reduction="none")
    overlap = (2 * (p * y).sum((1, 2)) + 1) / (p.sum((1, 2)) + y.sum((1, 2)) + 1)
    return {
        "loss_ce": cross_entropy,
        "loss_mask": FOCAL_WEIGHT * focal.mean((1, 2)).sum() / pairs,
        "loss_dice": (1 - overlap).sum() / pairs,
    }


@register_part("dtop", "exit_rule")
class ExitRule(Procedure):
    """pred (B, K, N), of which the mean with 1 is taken, and exited (B, N), 0 where a token left -> exited_after."""

    config: DToPConfig

    def forward(self, pred: Tensor, exited: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        after = exited_after((pred + 1) / 2, exited == 0, config.threshold, keep_per_class=config.keep_per_class)
        return {"exited_after": after.float()}


@register_part("dtop", "loss")
class Loss(Procedure):
    """Logits of classes (B, K, 2) and masks (B, K, h, w), label (B, H, W), K for ignored pixels -> terms and total."""

    config: DToPConfig

    def forward(self, class_logits: Tensor, mask_logits: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        terms = mask_losses(class_logits, mask_logits, label, ignored=self.config.num_classes)
        terms["total"] = torch.stack([*terms.values()]).sum()
        return {name: term[None] for name, term in terms.items()}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """What each head had and gave, and the scores of the pixels."""
    outputs: dict[str, Tensor] = {}
    if isinstance(model, DToP):
        for i, head in enumerate(model.steps(inputs["image"])):
            count = head.canvas.shape[2]
            exited = ~head.left.scatter_kept(count)
            outputs |= {f"tokens{i}": head.had.scatter(count), f"pred{i}": head.scores, f"exited{i}": exited.float()}
        outputs["logits"] = model.scores(inputs["image"])
    return outputs


VARIANTS = {
    "segvit_base_ade20k": DToPConfig(thresholds=(0.9, 0.9)),
    "segvit_large_ade20k": DToPConfig(
        image_size=640,
        dim=1024,
        depth=24,
        heads=16,
        head_after=(7, 15, 23),
        head_dim=512,
        head_heads=8,
        thresholds=(0.95, 0.95),
    ),
}

REFERENCE_NAMES = [
    (r"^backbone\.cls_token$", "class_token"),
    (r"^backbone\.pos_embed$", "position"),
    (r"^backbone\.patch_embed\.projection\.", "stem.proj."),
    (r"^backbone\.layers\.(\d+)\.attn\.attn\.", r"blocks.\1.token.inner."),
    (r"^backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.channel.inner.fc1."),
    (r"^backbone\.layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.channel.inner.fc2."),
    (r"^backbone\.layers\.(\d+)\.ln1\.", r"blocks.\1.token.norm."),
    (r"^backbone\.layers\.(\d+)\.ln2\.", r"blocks.\1.channel.norm."),
    (r"^auxiliary_head\.(\d+)\.", r"heads.\1."),
    (r"\.input_proj\.", ".project."),
    (r"\.proj_norm\.", ".norm."),
    (r"^heads\.(\d+)\.q\.weight$", r"heads.\1.query"),
    (r"\.decoder\.layers\.(\d+)\.self_attn\.", r".layers.\1.attention."),
    (r"\.decoder\.layers\.(\d+)\.multihead_attn\.", r".layers.\1.cross."),
    (r"\.decoder\.layers\.(\d+)\.linear(\d)\.", r".layers.\1.mlp.fc\2."),
    (r"\.decoder\.layers\.(\d+)\.norm1\.", r".layers.\1.norms.0."),
    (r"\.decoder\.layers\.(\d+)\.norm2\.", r".layers.\1.norms.1."),
    (r"\.decoder\.layers\.(\d+)\.norm3\.", r".layers.\1.norms.2."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The network's own head is the last of ours."""
    if not isinstance(model, DToP):
        return state
    last = f"auxiliary_head.{len(model.heads) - 1}."
    return {name.replace("decode_head.", last, 1): value for name, value in state.items()}
