"""SparseFormer: a few latent tokens, each with a box on the image, read it there, and nothing else is computed on.

"SparseFormer: Sparse Visual Recognition via Limited Latent Tokens" (arXiv 2304.03768), and in its bootstrapped form, in
front of the last blocks of a trained ViT, "Bootstrapping SparseFormers from Vision Foundation Models"
(arXiv 2312.01987).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.registry import register
from ommatid.nn.adaptive_mixing import AdaptiveMixing
from ommatid.nn.boxes import box_encoding, centers_and_sides, moved_boxes, spread_boxes, standardised_points
from ommatid.nn.conv import Conv2d
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_, init_norm_and_last_
from ommatid.nn.mixers import Attention
from ommatid.nn.residual import DropPath, stochastic_depth
from ommatid.ops.point_sampling import sample_points

Operation = Literal["attn", "roi", "sample", "mlp", "pe"]
CLIP_WIDTHS = (512, 768)


@dataclass(frozen=True, kw_only=True)
class SparseFormerConfig(Config):
    """What is None follows from the rest, as in the published networks.

    form: "bootstrapped" where there are 16 points, else "v1". ops: what each unit does, in order. head_bias: whether
    the head has one; the bootstrapped networks that give CLIP's embeddings, 512 or 768 numbers, have none.
    class_token_before_unit: -1 for none. generator_dim and quick_gelu are of the bootstrapped form.
    """

    form: Literal["v1", "bootstrapped"] | None = None
    conv_dim: int = 96
    num_tokens: int = 49
    shared_token_embedding: bool | None = None
    class_token_before_unit: int | None = None
    num_points: int = 36
    dims: tuple[int, ...] = (256, *[512] * 8)
    repeats: tuple[int, ...] = (4, *[1] * 8)
    ops: tuple[tuple[Operation, ...], ...] | None = None
    head_bias: bool | None = None
    generator_dim: int = 128
    quick_gelu: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, repeats=self.repeats, ops=self.operations)
        require_positive(dims=self.dims, repeats=self.repeats, conv_dim=self.conv_dim, num_tokens=self.num_tokens)
        require(self.num_points > 1, "num_points", self.num_points, "2 or more")
        require(min(self.dims) >= 8, "dims", self.dims, "8 or more")
        for dim in self.dims:
            require_divisible(dim, 64 if self.form_in_use == "v1" else dim // self.head_dim(dim), "dims")
        last = len(self.dims) - 1
        known = -1 <= self.class_unit <= last
        require(known, "class_token_before_unit", self.class_token_before_unit, f"from -1, for none, to {last}")
        behind = self.operations[self.class_unit :] if self.class_unit >= 0 else ()
        boxless = all(set(ops) <= {"attn", "mlp"} for ops in behind)
        require(boxless, "ops", self.ops, "attn and mlp only behind the class token, which has no box")

    @property
    def form_in_use(self) -> str:
        return self.form or ("bootstrapped" if self.num_points == 16 else "v1")

    @property
    def bootstrapped(self) -> bool:
        return self.form_in_use == "bootstrapped"

    @property
    def operations(self) -> tuple[tuple[Operation, ...], ...]:
        if self.ops is not None:
            return self.ops
        plain: tuple[Operation, ...] = ("attn", "mlp")
        first: list[tuple[Operation, ...]] = (
            [("sample", "pe", "attn", "mlp", "roi"), ("sample", "pe")]
            if self.bootstrapped
            else [("attn", "roi", "sample", "mlp")] * 2
        )
        return tuple((first + [plain] * len(self.dims))[: len(self.dims)])

    @property
    def class_unit(self) -> int:
        if self.class_token_before_unit is not None:
            return self.class_token_before_unit
        return 2 if self.bootstrapped else -1

    @property
    def shares_embedding(self) -> bool:
        return self.bootstrapped if self.shared_token_embedding is None else self.shared_token_embedding

    @property
    def has_head_bias(self) -> bool:
        if self.head_bias is not None:
            return self.head_bias
        return not (self.bootstrapped and self.num_classes in CLIP_WIDTHS)

    @property
    def eps(self) -> float:
        """Of the layer norms."""
        return 1e-5 if self.bootstrapped else 1e-6

    def head_dim(self, dim: int) -> int:
        """Width of a head: v1 always has 64 of them."""
        return min(64, dim) if self.bootstrapped else dim // 64


class Latents(NamedTuple):
    """tokens: (B, N, D). boxes: (B, N, 4), as x1, y1, x2, y2 from 0 to 1."""

    tokens: Tensor
    boxes: Tensor


class Attend(nn.Module):
    """t + attention(norm(t)), among all tokens."""

    def __init__(self, config: SparseFormerConfig, dim: int, repeats: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=config.eps)
        self.inner = Attention(dim, dim // config.head_dim(dim))

    def forward(self, latents: Latents, features: Tensor, drop: DropPath) -> Latents:
        return latents._replace(tokens=latents.tokens + drop(self.inner(self.norm(latents.tokens))))


class Transform(nn.Module):
    """t + MLP(norm(t))."""

    def __init__(self, config: SparseFormerConfig, dim: int, repeats: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=config.eps)
        self.inner = MLP(dim, 4 * dim, act=QuickGELU() if config.quick_gelu and repeats == 1 else None)

    def forward(self, latents: Latents, features: Tensor, drop: DropPath) -> Latents:
        return latents._replace(tokens=latents.tokens + drop(self.inner(self.norm(latents.tokens))))


class Adjust(nn.Module):
    """Moves and scales the boxes as the tokens say."""

    def __init__(self, config: SparseFormerConfig, dim: int, repeats: int) -> None:
        super().__init__()
        norm, last = nn.LayerNorm(dim, eps=config.eps), nn.Linear(dim, 4, bias=False)
        hidden = [nn.Linear(dim, dim), nn.GELU()] if config.bootstrapped else []
        self.layers = nn.Sequential(norm, *hidden, last)
        self.drops = not config.bootstrapped

    def forward(self, latents: Latents, features: Tensor, drop: DropPath) -> Latents:
        adjustment = self.layers(latents.tokens)
        return latents._replace(boxes=moved_boxes(latents.boxes, drop(adjustment) if self.drops else adjustment))

    def init_(self) -> None:
        init_norm_and_last_(self.layers)


class Sample(nn.Module):
    """Reads the image at points in the box, and adds what the token makes of them."""

    def __init__(self, config: SparseFormerConfig, dim: int, repeats: int) -> None:
        super().__init__()
        self.points = config.num_points
        self.beyond: Literal["zeros", "border"] = "border" if config.bootstrapped else "zeros"
        self.offset_bias = nn.Parameter(torch.zeros(2 * config.num_points))
        self.offsets = nn.Sequential(
            nn.LayerNorm(dim, eps=config.eps), nn.Linear(dim, 2 * config.num_points, bias=False)
        )
        self.mixing = AdaptiveMixing(
            dim,
            config.conv_dim,
            config.num_points,
            generator_dim=config.generator_dim if config.bootstrapped else dim // 4,
            biased=not config.bootstrapped,
            eps=config.eps,
        )

    def forward(self, latents: Latents, features: Tensor, drop: DropPath) -> Latents:
        tokens, boxes = latents
        offsets = standardised_points((self.offset_bias + self.offsets(tokens)).unflatten(-1, (-1, 2)))
        centers, sides = centers_and_sides(boxes)
        sampled = sample_points(features, centers[..., None, :] + offsets * sides[..., None, :], beyond=self.beyond)
        return latents._replace(tokens=tokens + drop(self.mixing(sampled, tokens)))

    def init_(self) -> None:
        init_norm_and_last_(self.offsets)
        side = math.isqrt(self.points)
        if side * side != self.points:
            nn.init.uniform_(self.offset_bias, -0.5, 0.5)
        else:
            cells = (torch.arange(side) + 0.5) / side - 0.5
            self.offset_bias.data = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).flatten()
        self.mixing.init_()


class Locate(nn.Module):
    """Tells the tokens where their boxes are."""

    def __init__(self, config: SparseFormerConfig, dim: int, repeats: int) -> None:
        super().__init__()
        self.encoding_dim = dim // 4 * 4
        self.layers = nn.Sequential(nn.LayerNorm(self.encoding_dim, eps=config.eps), nn.Linear(self.encoding_dim, dim))

    def forward(self, latents: Latents, features: Tensor, drop: DropPath) -> Latents:
        encoding = box_encoding(latents.boxes.detach(), self.encoding_dim // 4)
        return latents._replace(tokens=latents.tokens + self.layers(encoding))


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), which CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


OPERATIONS = {"attn": Attend, "mlp": Transform, "roi": Adjust, "sample": Sample, "pe": Locate}


class Unit(nn.Module):
    """A list of operations, run several times with the same weights."""

    def __init__(self, config: SparseFormerConfig, unit: int, drop_rates: list[float]) -> None:
        super().__init__()
        dim, repeats = config.dims[unit], config.repeats[unit]
        self.operations = nn.ModuleDict({op: OPERATIONS[op](config, dim, repeats) for op in config.operations[unit]})
        self.drops = nn.ModuleList(DropPath(rate) for rate in drop_rates)
        numbered = config.bootstrapped and repeats > 1
        self.stage_embedding = nn.Parameter(torch.zeros(repeats, dim)) if numbered else None

    def forward(self, latents: Latents, features: Tensor) -> Latents:
        for repetition, drop in enumerate(self.drops):
            if self.stage_embedding is not None:
                latents = latents._replace(tokens=latents.tokens + self.stage_embedding[repetition])
            for operation in self.operations.values():
                latents = operation(latents, features, drop)
        return latents


@register("sparseformer", SparseFormerConfig)
class SparseFormer(Backbone):
    """SparseFormer, for images of any size. Its map is the latent tokens in a row: they have boxes, no places."""

    config: SparseFormerConfig
    no_decay = ("boxes", "embedding", "class_token")

    def __init__(self, config: SparseFormerConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dims[-1],), (1,)
        rates = stochastic_depth(config.drop_path_rate, config.repeats)
        self.stem = Conv2d(config.in_channels, config.conv_dim, 7, stride=2, padding=3)
        self.embedding = nn.Parameter(torch.empty(1 if config.shares_embedding else config.num_tokens, config.dims[0]))
        self.boxes = nn.Parameter(spread_boxes(config.num_tokens))
        self.class_token = nn.Parameter(torch.zeros(1, config.dims[-1])) if config.class_unit >= 0 else None
        self.layers = nn.ModuleList()
        for unit, dim in enumerate(config.dims):
            before = config.dims[max(unit - 1, 0)]
            if dim != before:
                norm = [] if config.bootstrapped else [nn.LayerNorm(dim, eps=config.eps)]
                self.layers.append(nn.Sequential(nn.Linear(before, dim), *norm))
            self.layers.append(Unit(config, unit, rates[unit]))
        self.norm = nn.LayerNorm(config.dims[-1], eps=config.eps)
        self.head = (
            nn.Linear(config.dims[-1], config.num_classes, bias=config.has_head_bias)
            if config.num_classes
            else nn.Identity()
        )
        self.init_()

    def init_(self) -> None:
        self.apply(init_linear_)
        nn.init.kaiming_normal_(self.stem.weight, mode="fan_out", nonlinearity="relu")
        nn.init.trunc_normal_(self.embedding, std=1.0)
        for part in self.modules():
            if isinstance(part, Adjust | Sample):
                part.init_()

    @property
    def body(self) -> list[nn.Module]:
        return list(self.layers)

    def embed(self, image: Tensor) -> Tensor:
        tokens = self.tokens(image)
        return self.norm(tokens.mean(1) if self.class_token is None else tokens[:, 0])

    def tokens(self, image: Tensor) -> Tensor:
        *_, last = self.steps(image)
        return last.tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, None, -self.config.num_tokens :]]

    def steps(self, image: Tensor) -> Iterator[Latents]:
        """What is behind each unit."""
        batch = image.shape[0]
        features = self._early_features(image)
        tokens = self.embedding.expand(self.config.num_tokens, -1).expand(batch, -1, -1)
        latents, unit = Latents(tokens, self.boxes.expand(batch, -1, -1)), 0
        for layer in self.layers:
            if not isinstance(layer, Unit):
                latents = latents._replace(tokens=layer(latents.tokens))
                continue
            if unit == self.config.class_unit and self.class_token is not None:
                class_token = self.class_token.expand(batch, 1, -1)
                latents = latents._replace(tokens=torch.cat([class_token, latents.tokens], dim=1))
            latents, unit = layer(latents, features), unit + 1
            yield latents

    def _early_features(self, image: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, ~H / 4, ~W / 4, conv_dim), normed over channels at each position."""
        features = F.relu(self.stem(channels_last(image))).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(features, 3, stride=2, padding=1).permute(0, 2, 3, 1)
        return F.layer_norm(pooled, pooled.shape[-1:])


def reference_outputs(model: SparseFormer, image: Tensor) -> dict[str, Tensor]:
    """Tokens and boxes behind each unit."""
    outputs: dict[str, Tensor] = {}
    for unit, latents in enumerate(model.steps(image)):
        outputs |= {f"tokens{unit}": latents.tokens, f"roi{unit}": latents.boxes}
    return outputs


BASE, LARGE = (384, *[768] * 9), (512, *[1024] * 17)
VARIANTS = {
    "sparseformer_v1_tiny": SparseFormerConfig(),
    "sparseformer_v1_small": SparseFormerConfig(num_tokens=64, dims=(320, *[640] * 8)),
    "sparseformer_v1_base": SparseFormerConfig(num_tokens=81, dims=(384, *[768] * 10), repeats=(4, *[1] * 10)),
}
VARIANTS |= {
    f"sparseformer_btsp_{name}": SparseFormerConfig(
        conv_dim=64, num_tokens=tokens, num_points=16, dims=dims, repeats=(4, *[1] * (len(dims) - 1)), num_classes=out
    )
    for name, tokens, dims, out in (
        ("augreg_base", 48, BASE, 1000),
        ("augreg_large", 48, LARGE, 1000),
        ("openai_clip_base", 48, BASE, 512),
        ("openai_clip_large", 63, LARGE, 768),
    )
}

REFERENCE_NAMES = [
    (r"^feat_extractor\.conv1\.", "stem."),
    (r"^initial_roi\.weight$", "boxes"),
    (r"^initial_embedding\.weight$", "embedding"),
    (r"^cls_embedding\.weight$", "class_token"),
    (r"\.stage_embedding\.weight$", ".stage_embedding"),
    (r"\.roi_offset_bias$", ".operations.sample.offset_bias"),
    (r"\.roi_offset_module\.", ".operations.sample.offsets."),
    (r"\.adaptive_mixing\.m_beta$", ".operations.sample.mixing.channel_bias"),
    (r"\.adaptive_mixing\.s_beta$", ".operations.sample.mixing.point_bias"),
    (r"\.adaptive_mixing\.parameter_generator\.", ".operations.sample.mixing.generator."),
    (r"\.adaptive_mixing\.out_proj\.", ".operations.sample.mixing.proj."),
    (r"\.roi_adjust_module\.", ".operations.roi.layers."),
    (r"\.pe_transition\.", ".operations.pe.layers."),
    (r"\.norm1\.", ".operations.attn.norm."),
    (r"\.norm2\.", ".operations.mlp.norm."),
    (r"\.attn\.(?=qkv|proj)", ".operations.attn.inner."),
    (r"\.mlp\.(?=fc)", ".operations.mlp.inner."),
    (r"^proj\.", "head."),
]
