"""SparK: a convolutional network that sees a part of the image, and a small one that guesses the others from its maps.

"Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling" (arXiv 2301.03580).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.methods.pretraining.active_cells import ActiveBatchNorm, ActiveCells, keep_empty_
from ommatid.methods.pretraining.masking import lowest, repeated, replaced
from ommatid.methods.pretraining.pixels import hidden_patch_loss, normed_patches, patchify
from ommatid.models.backbone import channels_last
from ommatid.models.backbones import convnext, ibn_net
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import rename
from ommatid.models.registry import register, register_part
from ommatid.nn.block import pyramid
from ommatid.nn.conv import Conv2d, ConvNorm, ConvTranspose2d
from ommatid.nn.norm import BatchNorm2d, LayerNorm

STRIDES = (4, 8, 16, 32)
PATCH = STRIDES[-1]

Network = convnext.ConvNeXt | ibn_net.IBNNet
DensifyNorm = Literal["bn", "ln"]


def active_patches(noise: Tensor, mask_ratio: float) -> Tensor:
    """Which patches are seen, those of the lowest noise: (B, N) -> booleans (B, N)."""
    return lowest(noise, kept(noise.shape[1], mask_ratio))


def kept(patches: int, mask_ratio: float) -> int:
    """How many patches of so many are seen."""
    return round(patches * (1 - mask_ratio))


class SparK(nn.Module):
    """Image (B, 3, H, W) and active patches (B, H / 32, W / 32) -> all patches as guessed, normed: (B, 3, H, W).

    The network's stem and stages are trained in place. Until it is saved and loaded, it keeps the norms that can leave
    cells out, and answers as ever.

    Args:
        network: with four maps of strides 4 to 32, of convolutions, batch and layer norms, pooling and MLPs alone.
        width: of the guessing network at its coarsest map; a multiple of 32.
        norm: of the maps before their holes are filled: batch norm over active cells, or layer norm.
    """

    def __init__(self, network: Network, *, width: int = 768, norm: DensifyNorm = "bn") -> None:
        super().__init__()
        self.stem, self.stages = network.stem, network.stages
        self.active = keep_empty_(nn.ModuleList([self.stem, self.stages]))
        self.densify = nn.ModuleList(
            Densify(dim, width // 2**level, norm, self.active, pointwise=level == 0)
            for level, dim in enumerate(reversed(network.channels))
        )
        self.decoder = Decoder(width)

    def forward(self, image: Tensor, active: Tensor) -> Tensor:
        return self.decode(self.maps(image, active), active)

    def maps(self, image: Tensor, active: Tensor) -> list[Tensor]:
        """One (B, H_i, W_i, C_i) per stage, fine to coarse; 0 where patches are not active."""
        with self.active.being(active):
            pixels = channels_last(image) * repeated(active, PATCH).unsqueeze(-1)
            return pyramid(self.stages, self.stem(pixels))

    def decode(self, maps: list[Tensor], active: Tensor) -> Tensor:
        """(B, 3, H, W) from `maps`."""
        with self.active.being(active):
            filled = [densify(features) for densify, features in zip(self.densify, reversed(maps), strict=True)]
        return self.decoder(filled).permute(0, 3, 1, 2)

    def loss(self, image: Tensor, active: Tensor) -> Tensor:
        """Mean squared error in patches that are not active, whose own values are normed: ()."""
        return patch_loss(self(image, active), image, active)


def patch_loss(guess: Tensor, image: Tensor, active: Tensor) -> Tensor:
    return hidden_patch_loss(patchify(guess, PATCH), normed_patches(patchify(image, PATCH)), ~active.flatten(1))


class Densify(nn.Module):
    """Norms a map, fills its holes with a learned token, and gives it the decoder's width.

    (B, H, W, C) -> (B, H, W, C').

    Args:
        dim: C.
        out_dim: C'.
        norm: batch or layer norm.
        active: what is no hole.
        pointwise: by a 1x1 convolution, or none where the width is right already; by a 3x3 convolution else.
    """

    def __init__(self, dim: int, out_dim: int, norm: DensifyNorm, active: ActiveCells, *, pointwise: bool) -> None:
        super().__init__()
        self.active = active
        self.norm = ActiveBatchNorm(BatchNorm2d(dim), active) if norm == "bn" else LayerNorm(dim)
        self.token = nn.Parameter(torch.zeros(dim))
        self.proj: nn.Module = nn.Identity()
        if not pointwise:
            self.proj = Conv2d(dim, out_dim, 3, padding=1)
        elif dim != out_dim:
            self.proj = Conv2d(dim, out_dim, 1)
        nn.init.trunc_normal_(self.token, std=0.02, a=-0.02, b=0.02)

    def forward(self, features: Tensor) -> Tensor:
        active = self.active.of(features)
        assert active is not None
        return self.proj(replaced(self.norm(features), ~active, self.token))


class Decoder(nn.Module):
    """Makes an image of maps from coarse to fine, each twice as large and half as wide: (B, 32 h, 32 w, 3).

    The coarsest is (B, h, w, width).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UpBlock(width // 2**level) for level in range(len(STRIDES) + 1))
        self.proj = Conv2d(width // PATCH, 3, 1)
        self.apply(init_)

    def forward(self, maps: list[Tensor]) -> Tensor:
        features = self.blocks[0](maps[0])
        for block, skip in zip(self.blocks[1:-1], maps[1:], strict=True):
            features = block(features + skip)
        return self.proj(self.blocks[-1](features))


class UpBlock(nn.Module):
    """Twice the size, half the width: (B, H, W, C) -> (B, 2 H, 2 W, C / 2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.grow = ConvTranspose2d(dim, dim, 4, stride=2, padding=1)
        self.convs = nn.Sequential(ConvNorm(dim, dim, 3, act=nn.ReLU6()), ConvNorm(dim, dim // 2, 3))

    def forward(self, features: Tensor) -> Tensor:
        return self.convs(self.grow(features))


def init_(layer: nn.Module) -> None:
    """Convolutions: weights from N(0, 0.02); transposed ones: from N(0, 2 / fan_out); biases 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.trunc_normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.ConvTranspose2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


@dataclass(frozen=True, kw_only=True)
class SparKConfig(PartConfig):
    """`dims` and `layer_scale` are of ConvNeXt; `block` and `widths`, before the expansion, of ResNet.

    channels: of "sparse_batch_norm_train", which reads no other field but `mask_ratio`.
    """

    function: Literal["pretrain", "sparse_batch_norm_train"] = "pretrain"
    encoder: Literal["convnext", "resnet"] = "resnet"
    image_size: int = 224
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_scale: float | None = 1e-6
    block: Literal["basic", "bottleneck"] = "bottleneck"
    widths: tuple[int, ...] = (64, 128, 256, 512)
    drop_path_rate: float = 0.0
    decoder_width: int = 768
    mask_ratio: float = 0.6
    densify_norm: DensifyNorm = "bn"
    channels: int = 64

    def check(self) -> None:
        require_positive(image_size=self.image_size, decoder_width=self.decoder_width, channels=self.channels)
        require(0 <= self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "from 0 up to, not including, 1")
        if self.function == "sparse_batch_norm_train":
            return
        for field in ("dims", "depths", "widths"):
            numbers = getattr(self, field)
            require(len(numbers) == len(STRIDES), field, numbers, f"one entry for each of {len(STRIDES)} stages")
        require(self.image_size % PATCH == 0, "image_size", self.image_size, f"a multiple of {PATCH}")
        require(self.decoder_width % PATCH == 0, "decoder_width", self.decoder_width, f"a multiple of {PATCH}")
        patches = (self.image_size // PATCH) ** 2
        seen = kept(patches, self.mask_ratio) > 0
        require(seen, "mask_ratio", self.mask_ratio, f"one that leaves one of {patches} patches")
        self.encoder_config()

    def encoder_config(self) -> convnext.ConvNeXtConfig | ibn_net.IBNNetConfig:
        """Of the network. Raises ValueError for what it cannot be."""
        if self.encoder == "convnext":
            return convnext.ConvNeXtConfig(
                num_classes=0,
                dims=self.dims,
                depths=self.depths,
                layer_scale=self.layer_scale,
                drop_path_rate=self.drop_path_rate,
            )
        return ibn_net.IBNNetConfig(
            num_classes=0,
            block=self.block,
            dims=self.widths,
            depths=self.depths,
            stem_dim=64,
            ibn=(None,) * len(STRIDES),
            drop_path_rate=self.drop_path_rate,
        )


def network(config: SparKConfig) -> Network:
    """The convolutional network of the config. A ResNet is an IBN-Net without instance norms."""
    chosen = config.encoder_config()
    return ibn_net.IBNNet(chosen) if isinstance(chosen, ibn_net.IBNNetConfig) else convnext.ConvNeXt(chosen)


@register("spark", SparKConfig)
class Pretraining(Procedure):
    """image, noise (B, N) -> active (B, 1, h, w), `stageI`, reconstruction (B, 3, H, W) and loss ()."""

    config: SparKConfig

    def __init__(self, config: SparKConfig) -> None:
        super().__init__(config)
        self.learner = SparK(network(config), width=config.decoder_width, norm=config.densify_norm)

    def forward(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        side = self.config.image_size // PATCH
        active = active_patches(noise, self.config.mask_ratio).unflatten(1, (side, side))
        maps = self.learner.maps(image, active)
        guess = self.learner.decode(maps, active)
        stages = {f"stage{index}": features.permute(0, 3, 1, 2) for index, features in enumerate(maps)}
        answers = {"active": active.unsqueeze(1).float(), "reconstruction": guess}
        return stages | answers | {"loss": patch_loss(guess, image, active)}


@register_part("spark", "sparse_batch_norm_train")
class TrainedBatchNorm(Procedure):
    """x (B, C, H, W), noise (B, N) -> y (B, C, H, W) in training, and the running statistics behind that step."""

    config: SparKConfig

    def __init__(self, config: SparKConfig) -> None:
        super().__init__(config)
        self.norm = ActiveBatchNorm(BatchNorm2d(config.channels), ActiveCells())

    def forward(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        side = round(noise.shape[1] ** 0.5)
        norm = copy.deepcopy(self.norm).train()
        with norm.active.being(active_patches(noise, self.config.mask_ratio).unflatten(1, (side, side))):
            y = norm(channels_last(x)).permute(0, 3, 1, 2)
        return {"y": y, **{name: value.clone() for name, value in norm.named_buffers() if name.startswith("running")}}


RESNET_50 = SparKConfig()
CONVNEXT_SMALL = SparKConfig(encoder="convnext", depths=(3, 3, 27, 3), densify_norm="ln")

VARIANTS = {
    "spark_resnet50": RESNET_50,
    "spark_resnet101": RESNET_50.replace(depths=(3, 4, 23, 3)),
    "spark_resnet152": RESNET_50.replace(depths=(3, 8, 36, 3)),
    "spark_resnet200": RESNET_50.replace(depths=(3, 24, 36, 3)),
    "spark_convnext_small": CONVNEXT_SMALL,
    "spark_convnext_base": CONVNEXT_SMALL.replace(dims=(128, 256, 512, 1024)),
}

REFERENCE_NAMES = [
    (r"^dense_decoder\.dec\.(\d)\.up_sample\.", r"learner.decoder.blocks.\1.grow."),
    (r"^dense_decoder\.dec\.(\d)\.conv\.0\.", r"learner.decoder.blocks.\1.convs.0.conv."),
    (r"^dense_decoder\.dec\.(\d)\.conv\.1\.", r"learner.decoder.blocks.\1.convs.0.norm."),
    (r"^dense_decoder\.dec\.(\d)\.conv\.3\.", r"learner.decoder.blocks.\1.convs.1.conv."),
    (r"^dense_decoder\.dec\.(\d)\.conv\.4\.", r"learner.decoder.blocks.\1.convs.1.norm."),
    (r"^dense_decoder\.proj\.", "learner.decoder.proj."),
    (r"^densify_norms\.(\d)\.", r"learner.densify.\1.norm."),
    (r"^densify_projs\.(\d)\.", r"learner.densify.\1.proj."),
    (r"^mask_tokens\.(\d)$", r"learner.densify.\1.token"),
]

REFERENCE_IGNORED = [r"^(imn_m|imn_s|norm_black)$"]

ENCODER = "sparse_encoder.sp_cnn."


def convert_reference(state: dict[str, Tensor], model: Procedure) -> dict[str, Tensor]:
    """Names of the network, as its own family translates them."""
    assert isinstance(model.config, SparKConfig)
    rules = (convnext if model.config.encoder == "convnext" else ibn_net).REFERENCE_NAMES
    return {
        f"learner.{rename(name.removeprefix(ENCODER), rules)}" if name.startswith(ENCODER) else name: value
        for name, value in state.items()
    }
