"""SimMIM: raw pixels of hidden patches, said by a whole backbone and one linear layer.

"SimMIM: A Simple Framework for Masked Image Modeling" (arXiv 2111.09886).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ommatid.methods.pretraining.masked_encoder import Maskable, MaskedEncoder
from ommatid.methods.pretraining.masking import lowest, repeated
from ommatid.methods.pretraining.pixels import hidden_pixel_loss, locally_normed, undone
from ommatid.models.backbones import eva, swin, swin_v2
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import rename
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d
from ommatid.nn.upsample import PixelShuffle


def square_mask(noise: Tensor, mask_ratio: float, factor: int) -> Tensor:
    """Which patches are hidden, in squares of `factor` patches a side: noise (B, n) -> booleans (B, h, w).

    The n squares, row by row, make a square grid, h = w = factor * sqrt(n). The ceil(n * mask_ratio) of the lowest
    noise are hidden.

    Raises:
        ValueError: n is no square number.
    """
    side = math.isqrt(noise.shape[1])
    require(side**2 == noise.shape[1], "length of noise", noise.shape[1], "a square number")
    hidden = lowest(noise, math.ceil(noise.shape[1] * mask_ratio))
    return repeated(hidden.unflatten(1, (side, side)), factor)


class SimMIM(nn.Module):
    """Image (B, 3, H, W) and hidden patches (B, h, w) -> the image as it is guessed, (B, 3, H, W).

    `encoder.network` is the backbone itself, which can be saved and trained on.

    Args:
        network: the backbone.
        norm_target: side of the window that pixels to be guessed are normed in; 0 for pixels as they are.
        cut: at which values the distribution of the learned token for hidden patches is cut.
    """

    def __init__(self, network: Maskable, *, norm_target: int = 0, cut: float = 2.0) -> None:
        super().__init__()
        stride = network.strides[-1]
        self.norm_target = norm_target
        self.encoder = MaskedEncoder(network, cut=cut)
        self.decoder = nn.Sequential(Conv2d(network.channels[-1], 3 * stride**2, 1), PixelShuffle(stride))

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        return self.decoder(self.encoder(image, hidden)).permute(0, 3, 1, 2)

    def target(self, image: Tensor) -> Tensor:
        return locally_normed(image, self.norm_target) if self.norm_target else image

    def like(self, guess: Tensor, image: Tensor) -> Tensor:
        """A guess of the target as an image: with the mean and variance that the image has there, if it was normed."""
        return undone(guess, image, self.norm_target) if self.norm_target else guess

    def loss(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Mean error of hidden pixels: ()."""
        return self.loss_of(self(image, hidden), image, hidden)

    def loss_of(self, guess: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """The same, of a guess that was made already."""
        pixels = repeated(hidden, self.encoder.network.strides[0]).unsqueeze(1)
        return hidden_pixel_loss(guess, self.target(image), pixels.to(image.dtype))


@dataclass(frozen=True, kw_only=True)
class SimMIMConfig(PartConfig):
    """`dims`, `depths`, `window_size` are of Swin encoders; `dim`, `depth` and what follows it are of "vit".

    heads: of each stage, or of the ViT. mask_patch_size: side of what is hidden at once, in pixels. norm_target: 0 for
    none. mean_pooling: the ViT is made for fine-tuning, without a norm of its tokens.
    """

    function: Literal["pretrain", "mask", "norm_targets"] = "pretrain"
    encoder: Literal["swin", "swin_v2", "vit"] = "swin"
    image_size: int = 192
    patch_size: int = 4
    dims: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (2, 2, 18, 2)
    heads: int | tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 6
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    dim: int = 768
    depth: int = 12
    layer_scale: float | None = 0.1
    absolute_position: bool = False
    relative_position: Literal["none", "shared", "per_block"] = "shared"
    mean_pooling: bool = False
    drop_path_rate: float = 0.0
    mask_patch_size: int = 32
    mask_ratio: float = 0.6
    norm_target: int = 0

    def check(self) -> None:
        require_positive(image_size=self.image_size, patch_size=self.patch_size, mask_patch_size=self.mask_patch_size)
        require(0 <= self.mask_ratio <= 1, "mask_ratio", self.mask_ratio, "from 0 to 1")
        odd = self.norm_target == 0 or (self.norm_target > 1 and self.norm_target % 2 == 1)
        require(odd, "norm_target", self.norm_target, "an odd number above 1, or 0 for none")
        if self.function == "norm_targets":
            return
        multiple = self.mask_patch_size % self.patch_size == 0
        require(multiple, "mask_patch_size", self.mask_patch_size, f"a multiple of patch_size ({self.patch_size})")
        whole = self.image_size % self.mask_patch_size == 0
        require(whole, "image_size", self.image_size, f"a multiple of mask_patch_size ({self.mask_patch_size})")
        if self.function == "pretrain":
            self.encoder_config()
            require(self.image_size % self.stride == 0, "image_size", self.image_size, f"a multiple of {self.stride}")

    @property
    def stride(self) -> int:
        """Of the encoder's last map."""
        return self.patch_size if self.encoder == "vit" else self.patch_size * 2 ** (len(self.dims) - 1)

    def encoder_config(self) -> swin.SwinConfig | swin_v2.SwinV2Config | eva.EVAConfig:
        """Of the backbone. Raises ValueError for what it cannot be."""
        shared: dict[str, Any] = {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_classes": 0,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "drop_path_rate": self.drop_path_rate,
            "heads": self.heads,
        }
        if self.encoder == "vit":
            return eva.EVAConfig(
                dim=self.dim,
                depth=self.depth,
                layer_scale=self.layer_scale,
                absolute_position=self.absolute_position,
                relative_position=self.relative_position,
                mean_pooling=self.mean_pooling,
                rope=False,
                mlp="gelu",
                **shared,
            )
        shared |= {"dims": self.dims, "depths": self.depths, "window_size": self.window_size}
        if self.encoder == "swin":
            return swin.SwinConfig(**shared)
        return swin_v2.SwinV2Config(pretrained_window_sizes=(0,) * len(self.dims), **shared)


def network(config: SimMIMConfig) -> Maskable:
    """The backbone of the config."""
    chosen = config.encoder_config()
    if isinstance(chosen, eva.EVAConfig):
        return eva.EVA(chosen)
    return swin_v2.SwinV2(chosen) if isinstance(chosen, swin_v2.SwinV2Config) else swin.Swin(chosen)


@register("simmim", SimMIMConfig)
class Pretraining(Procedure):
    """image, noise (B, n) -> mask (B, h, w), feature (B, C, h', w'), reconstruction (B, 3, H, W) and loss ()."""

    config: SimMIMConfig

    def __init__(self, config: SimMIMConfig) -> None:
        super().__init__(config)
        cut = 0.02 if config.encoder == "vit" else 2.0
        self.learner = SimMIM(network(config), norm_target=config.norm_target, cut=cut)

    def forward(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        hidden = drawn_mask(self.config, noise)
        features = self.learner.encoder(image, hidden)
        guess = self.learner.decoder(features).permute(0, 3, 1, 2)
        return {
            "mask": hidden.to(image.dtype),
            "feature": features.permute(0, 3, 1, 2),
            "reconstruction": guess,
            "loss": self.learner.loss_of(guess, image, hidden),
        }


@register_part("simmim", "mask")
class Mask(Procedure):
    """noise (B, n) -> mask (B, h, w) of 0 and 1."""

    config: SimMIMConfig

    def forward(self, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"mask": drawn_mask(self.config, noise).float()}


@register_part("simmim", "norm_targets")
class NormTargets(Procedure):
    """image (B, C, H, W) -> target (B, C, H, W)."""

    config: SimMIMConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"target": locally_normed(image, self.config.norm_target) if self.config.norm_target else image}


def drawn_mask(config: SimMIMConfig, noise: Tensor) -> Tensor:
    return square_mask(noise, config.mask_ratio, config.mask_patch_size // config.patch_size)


SWIN_BASE = SimMIMConfig()

VARIANTS = {
    "simmim_swin_base": SWIN_BASE,
    "simmim_swin_large": SWIN_BASE.replace(dims=(192, 384, 768, 1536), heads=(6, 12, 24, 48), window_size=12),
    "simmim_vit_base": SWIN_BASE.replace(encoder="vit", image_size=224, patch_size=16, heads=12),
}

FAMILIES = {"swin": swin, "swin_v2": swin_v2, "vit": eva}

REFERENCE_IGNORED = swin.REFERENCE_IGNORED


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """Names of the encoder as its own family translates them; those of the head."""
    if not isinstance(model, Pretraining):
        return state
    family, converted = FAMILIES[model.config.encoder], {}
    for name, value in state.items():
        owner, _, rest = name.partition(".")
        if name == "encoder.mask_token":
            converted["learner.encoder.token"] = value
        elif owner == "encoder":
            converted[f"learner.encoder.network.{rename(rest, family.REFERENCE_NAMES)}"] = value
        else:
            converted[f"learner.{name}"] = value
    return converted
