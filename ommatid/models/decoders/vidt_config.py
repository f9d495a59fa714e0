"""How ViDT and ViDT+ are configured, and the published sizes: arXiv 2110.03921, arXiv 2204.07962."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.decoders.deformable_pixels import GROUPS

STAGES = 4
DIM = 256
"""Width of the decoder and of the map that is merged once more: fixed in the published code."""

TOKEN_CLASSES = 91


@dataclass(frozen=True, kw_only=True)
class ViDTConfig(PartConfig):
    """`method` "vidt_wo_neck" reads `decoder_dim` alone of what is about the decoder.

    `det_tokens` detection tokens have positions of width `pos_dim`, and look at the patches in `cross_stages`.
    `epff` fuses the pyramid; `vector_dim` is the length of mask vectors, null for none, made by layers of width
    `vector_hidden`; `iou_aware` and `token_label` add what each query's IoU is, and which classes are at each cell.
    `valid_sizes`: (height, width) of what is no padding, of the first, second, ... image of a batch, again and again;
    null where all of every image is valid.
    """

    method: Literal["vidt", "vidt_wo_neck"] = "vidt"
    in_channels: int = 3
    dims: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    det_tokens: int = 100
    pos_dim: int = 256
    cross_stages: tuple[int, ...] = (3,)
    num_classes: int = 91
    decoder_dim: int = DIM
    decoder_heads: int = 8
    decoder_layers: int = 6
    ffn_dim: int = 1024
    points: int = 4
    box_refine: bool = True
    epff: bool = False
    vector_dim: int | None = None
    vector_hidden: int | None = None
    iou_aware: bool = False
    token_label: bool = False
    valid_sizes: tuple[tuple[int, int], ...] | None = None

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads)
        require(len(self.dims) == STAGES, "dims", self.dims, f"{STAGES} stages")
        doubling = all(dim == self.dims[0] * 2**stage for stage, dim in enumerate(self.dims))
        require(doubling, "dims", self.dims, "widths each twice the one before")
        require_divisible(self.dims, self.heads)
        require_positive(dims=self.dims, depths=self.depths, window_size=self.window_size, mlp_ratio=self.mlp_ratio)
        require_positive(in_channels=self.in_channels, det_tokens=self.det_tokens, pos_dim=self.pos_dim)
        require_positive(num_classes=self.num_classes)
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")
        known = all(0 <= stage < STAGES for stage in self.cross_stages)
        require(known, "cross_stages", self.cross_stages, f"stages from 0 to {STAGES - 1}")
        require(self.decoder_dim > 0 and self.decoder_dim % GROUPS == 0, "decoder_dim", self.decoder_dim, "32, 64, ...")
        if self.valid_sizes is not None:
            positive = bool(self.valid_sizes) and all(min(size) > 0 for size in self.valid_sizes)
            require(positive, "valid_sizes", self.valid_sizes, "null, or pairs of positive integers")
        if self.method == "vidt":
            self._check_decoder()

    def _check_decoder(self) -> None:
        require(self.decoder_dim == DIM, "decoder_dim", self.decoder_dim, f"{DIM}, for the method 'vidt'")
        require(self.pos_dim == DIM, "pos_dim", self.pos_dim, f"{DIM}, for the method 'vidt'")
        require_divisible(DIM, self.decoder_heads, "decoder_heads")
        require_positive(decoder_layers=self.decoder_layers, ffn_dim=self.ffn_dim, points=self.points)
        vectors = self.vector_dim is None or self.vector_dim > 0
        require(vectors, "vector_dim", self.vector_dim, "null, or a positive integer")
        hidden = self.vector_dim is None or (self.vector_hidden or 0) > 0
        require(hidden, "vector_hidden", self.vector_hidden, "a positive integer, where there is a vector_dim")
        labels = not self.token_label or self.num_classes <= TOKEN_CLASSES
        require(labels, "num_classes", self.num_classes, f"up to {TOKEN_CLASSES}, with token_label")

    @property
    def part(self) -> str:
        return self.method


NANO = ViDTConfig()
TINY = NANO.replace(dims=(96, 192, 384, 768))
SMALL = TINY.replace(depths=(2, 2, 18, 2))
BASE = SMALL.replace(dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32))


def plus(config: ViDTConfig) -> ViDTConfig:
    """The ViDT+ of a ViDT."""
    vectors = {"vector_dim": 256, "vector_hidden": 256}
    return config.replace(det_tokens=300, epff=True, iou_aware=True, token_label=True, **vectors)


SIZES = {"nano": NANO, "tiny": TINY, "small": SMALL, "base": BASE}

VARIANTS = {f"vidt_{size}": config for size, config in SIZES.items()} | {
    f"vidt_plus_{size}": plus(config) for size, config in SIZES.items()
}
