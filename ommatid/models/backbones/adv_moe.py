"""AdvMoE: a convolutional network of experts, whose pathway through all layers a small network chooses by the image.

"Robust Mixture-of-Expert Training for Convolutional Neural Networks" (arXiv 2308.10110).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.backbone import Backbone, channels_last, doubling_strides
from ommatid.models.config import Config, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.reference import zero_based
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_at_least
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_conv_fan_out_
from ommatid.nn.mixture_conv import MixtureConv2d, Pathway, best_pathway
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.pool import MaxPool2d

STEM_WIDTH, ROUTER_WIDTH = 64, 16


@dataclass(frozen=True, kw_only=True)
class AdvMoEConfig(Config):
    """`function` "network" is the classifier, a "resnet" of blocks or a "vgg" of widths and pools ("M").

    ratio: of all widths but that of a ResNet's stem. gains, offsets: of each image of a reference case, before
    anything else. "moe_conv" reads in_channels, out_channels, num_experts and stride; "attack" and "losses" are steps
    of its training, see methods/adversarial.py. There is no branch that could be dropped: `drop_path_rate` means
    nothing.
    """

    function: Literal["network", "moe_conv", "attack", "losses"] = "network"
    num_classes: int = 10
    arch: Literal["resnet", "vgg"] = "resnet"
    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    vgg: tuple[int | Literal["M"], ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M")
    ratio: float = 0.5
    num_experts: int = 2
    router_depths: tuple[int, ...] = (3, 3, 3)
    gains: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)
    out_channels: int = 64
    stride: int = 1
    dim: int = 3072
    steps: int = 2
    step_size: float = 5 / 255
    epsilon: float = 8 / 255
    start_noise: float = 0.001
    alpha: float = 6.0
    beta: float = 6.0

    def check(self) -> None:
        require_positive(num_experts=self.num_experts, depths=self.depths, router_depths=self.router_depths)
        require_positive(out_channels=self.out_channels, stride=self.stride)
        narrowest = min([64] if self.arch == "resnet" else [width for width in self.vgg if width != "M"], default=0)
        require(narrowest > 0, "vgg", self.vgg, "widths and M, at least one width")
        require(self.scaled(narrowest) > 0, "ratio", self.ratio, f"1/{narrowest} or more")

    def scaled(self, width: int) -> int:
        return int(self.ratio * width)

    @property
    def vgg_stages(self) -> list[list[int | Literal["M"]]]:
        """The layers by stage: each pool ends one."""
        stages: list[list[int | Literal["M"]]] = [[]]
        for layer in self.vgg:
            stages += [[]] if stages[-1][-1:] == ["M"] else []
            stages[-1].append(layer)
        return stages


@register("adv_moe", AdvMoEConfig)
class AdvMoE(Backbone):
    """A ResNet or VGG for small images. Its `router` scores the experts, (B, E), by the image; the best one is taken.

    Of a single expert there is no router: that is the ordinary network.
    """

    config: AdvMoEConfig

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__(config)
        self.router = Router(config) if config.num_experts > 1 else None
        self.network = ResNet(config) if config.arch == "resnet" else VGG(config)
        self.channels, self.strides = self.network.channels, self.network.strides
        self.head = self.network.classifier(config.num_classes)
        self.apply(init_conv_fan_out_)
        self.apply(init_narrow_linear_)

    @property
    def embed_dim(self) -> int:
        return self.network.embed_dim

    @property
    def body(self) -> list[nn.Module]:
        return list(self.network.stages)

    def scores(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, E)."""
        if self.router is None:
            return image.new_zeros(image.shape[0], 1)
        return self.router(channels_last(image))

    def scored(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> logits (B, num_classes) and scores (B, E)."""
        scores = self.scores(image)
        return self.head(self.network.pool(self._run(image, scores)[-1])), scores

    def maps(self, image: Tensor) -> list[Tensor]:
        return self._run(image, self.scores(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.network.pool(self.maps(image)[-1])

    def _run(self, image: Tensor, scores: Tensor) -> list[Tensor]:
        pathway = None if self.router is None else best_pathway(scores)
        return self.network(channels_last(image), pathway)


class MixtureConvNorm(nn.Module):
    """A convolution of the pathway's expert, a batch norm that all experts share, an activation."""

    def __init__(
        self, in_dim: int, dim: int, kernel_size: int, experts: int, *, stride: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = MixtureConv2d(in_dim, dim, kernel_size, experts, stride=stride, padding=kernel_size // 2)
        self.norm = BatchNorm2d(dim)
        self.act = act or nn.Identity()

    def forward(self, features: Tensor, pathway: Pathway | None) -> Tensor:
        return self.act(self.norm(self.conv(features, pathway)))


class ResidualConvs(nn.Module):
    """Convolutions one after another, ReLU behind the sum with the shortcut."""

    def __init__(self, convs: Iterable[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, features: Tensor, *pathway: Pathway | None) -> Tensor:
        inner = features
        for conv in self.convs:
            inner = conv(inner, *pathway)
        return F.relu(inner + self.shortcut(features))


class ResNet(nn.Module):
    """The network of residual blocks: a map (B, H, W, C) -> one map per stage."""

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(config.in_channels, STEM_WIDTH, 3, act=nn.ReLU())
        self.stages = nn.ModuleList()
        dim = STEM_WIDTH
        for stage, depth in enumerate(config.depths):
            blocks = nn.ModuleList()
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(residual_block(dim, config.scaled(STEM_WIDTH * 2**stage), stride, config))
                dim = config.scaled(STEM_WIDTH * 2**stage) * (4 if config.block == "bottleneck" else 1)
            self.stages.append(blocks)
        widths = [config.scaled(STEM_WIDTH * 2**stage) for stage in range(len(config.depths))]
        self.channels = tuple(width * (4 if config.block == "bottleneck" else 1) for width in widths)
        self.strides = doubling_strides(1, len(config.depths))
        self.embed_dim = dim

    def forward(self, features: Tensor, pathway: Pathway | None) -> list[Tensor]:
        features, maps = self.stem(features), []
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                features = block(features, pathway)
            maps.append(features)
        return maps

    def pool(self, features: Tensor) -> Tensor:
        return features.mean((1, 2))

    def classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()


def residual_block(in_dim: int, width: int, stride: int, config: AdvMoEConfig) -> ResidualConvs:
    experts = config.num_experts
    if config.block == "basic":
        dim = width
        convs = [
            MixtureConvNorm(in_dim, width, 3, experts, stride=stride, act=nn.ReLU()),
            MixtureConvNorm(width, dim, 3, experts),
        ]
    else:
        dim = 4 * width
        convs = [
            MixtureConvNorm(in_dim, width, 1, experts, act=nn.ReLU()),
            MixtureConvNorm(width, width, 3, experts, stride=stride, act=nn.ReLU()),
            MixtureConvNorm(width, dim, 1, experts),
        ]
    same = stride == 1 and in_dim == dim
    return ResidualConvs(convs, nn.Identity() if same else ConvNorm(in_dim, dim, 1, stride=stride))


class VGG(nn.Module):
    """The network of plain convolutions: a map (B, H, W, C) -> one map per stage, each ended by a pool."""

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.channels: tuple[int, ...] = ()
        self.strides: tuple[int, ...] = ()
        dim, stride, experts = config.in_channels, 1, 1
        for layers in config.vgg_stages:
            stage = nn.ModuleList()
            for layer in layers:
                if layer == "M":
                    stage.append(MaxPool2d(2))
                    stride *= 2
                else:
                    stage.append(MixtureConvNorm(dim, config.scaled(layer), 3, experts, act=nn.ReLU()))
                    dim, experts = config.scaled(layer), config.num_experts
            self.stages.append(stage)
            self.channels, self.strides = (*self.channels, dim), (*self.strides, stride)
        self.embed_dim = 4 * dim

    def forward(self, features: Tensor, pathway: Pathway | None) -> list[Tensor]:
        require_at_least(features.permute(0, 3, 1, 2), self.strides[-1])
        maps = []
        for stage in self.stages:
            for layer in stage:  # type: ignore[attr-defined]
                features = layer(features, pathway) if isinstance(layer, MixtureConvNorm) else layer(features)
            maps.append(features)
        return maps

    def pool(self, features: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), 2).flatten(1)

    def classifier(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        hidden = [nn.Linear(self.embed_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(256, num_classes))


class Router(nn.Module):
    """A residual network of three narrow stages: a map (B, H, W, C) -> scores (B, E) of the experts."""

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(config.in_channels, ROUTER_WIDTH, 3, act=nn.ReLU())
        self.stages = nn.ModuleList()
        dim = ROUTER_WIDTH
        for stage, depth in enumerate(config.router_depths):
            width, blocks = ROUTER_WIDTH * 2**stage, []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                convs = [ConvNorm(dim, width, 3, stride=stride, act=nn.ReLU()), ConvNorm(width, width, 3)]
                blocks.append(ResidualConvs(convs, nn.Identity() if dim == width else PaddedShortcut(width - dim)))
                dim = width
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(dim, config.num_experts)

    def forward(self, features: Tensor) -> Tensor:
        features = self.stem(features)
        for stage in self.stages:
            features = stage(features)
        return self.head(features.mean((1, 2)))


class PaddedShortcut(nn.Module):
    """Every second row and column, and channels of zeros on both sides: (B, H, W, C) -> (B, H', W', C + added)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, features: Tensor) -> Tensor:
        return F.pad(features[:, ::2, ::2], (self.added // 2, self.added - self.added // 2))


def init_narrow_linear_(layer: nn.Module) -> None:
    """Linear layers: weights from N(0, 0.01), biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)


@register_part("adv_moe", "moe_conv")
class MixtureConvolution(Procedure):
    """x (B, C, H, W) and scores (B, E) -> features (B, W, H', W') of one 3x3 convolution."""

    config: AdvMoEConfig

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__(config)
        self.conv = MixtureConv2d(
            config.in_channels, config.out_channels, 3, config.num_experts, stride=config.stride, padding=1
        )

    def forward(self, x: Tensor, scores: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"features": self.conv(x.permute(0, 2, 3, 1), best_pathway(scores)).permute(0, 3, 1, 2)}


VARIANTS = {
    "adv_moe_resnet18": AdvMoEConfig(),
    "adv_moe_resnet18_dense": AdvMoEConfig(num_experts=1, ratio=1.0),
    "adv_moe_vgg16": AdvMoEConfig(arch="vgg"),
}

BLOCK_NAMES = [
    (r"\blayer(\d+)\.", zero_based("stages.{}.")),
    (r"\.conv(\d)\.", zero_based(".convs.{}.conv.")),
    (r"\.bn(\d)\.", zero_based(".convs.{}.norm.")),
    (r"\.shortcut\.0\.", ".shortcut.conv."),
    (r"\.shortcut\.1\.", ".shortcut.norm."),
]
REFERENCE_NAMES = [
    (r"^weight$", "conv.weight"),
    (r"^model\.(?:linear|classifier)\.", "head."),
    (r"^router\.fc\.", "router.head."),
    (r"^model\.(?=conv1|bn1|layer|stages)", "network."),
    (r"^(network|router)\.conv1\.", r"\1.stem.conv."),
    (r"^(network|router)\.bn1\.", r"\1.stem.norm."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Finds the layer of each tensor of a VGG: the reference counts convolutions, norms, ReLUs and pools in one row."""
    if not isinstance(model, AdvMoE) or model.config.arch != "vgg":
        return state
    places, number = {}, 0
    for i, stage in enumerate(model.config.vgg_stages):
        for j, layer in enumerate(stage):
            places[f"model.features.{number}"] = f"network.stages.{i}.{j}.conv"
            places[f"model.features.{number + 1}"] = f"network.stages.{i}.{j}.norm"
            number += 1 if layer == "M" else 3
    modules = {name: name.rpartition(".") for name in state}
    return {f"{places.get(module, module)}.{leaf}": state[name] for name, (module, _, leaf) in modules.items()}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """Of the network: each image of a case is made brighter or darker first, so that their pathways differ."""
    if not isinstance(model, AdvMoE):
        return {}
    image = inputs["image"]
    gains, offsets = (
        image.new_tensor(values).view(-1, 1, 1, 1) for values in (model.config.gains, model.config.offsets)
    )
    logits, scores = model.scored(gains * image + offsets)
    return {"logits": logits, "scores": scores}
