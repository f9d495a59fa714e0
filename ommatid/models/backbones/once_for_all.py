"""Once-for-all: one trained network, from which sub-networks of other depths, widths and kernels are cut.

"Once for All: Train One Network and Specialize it for Efficient Deployment" (arXiv 1908.09791), in the space of
MobileNetV3 (arXiv 1905.02244).
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import PartConfig
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.models.subnets import STRIDES, OnceForAllConfig, Setting
from ommatid.nn.block import pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.elastic import ElasticMBConv, gated, mobile_width
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mbconv import MBConv
from ommatid.nn.recalibration import recalibrated
from ommatid.nn.residual import Residual
from ommatid.nn.squeeze_excite import SqueezeExcite

HARD_SWISH = (False, False, True, True, True)
GATED = (False, True, False, True, True)
DROPOUT = 0.1


class Ends(nn.Module):
    """What every sub-network has, whole: the stem in front of the stages, and what makes an embedding behind them."""

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__()
        stem, first, *_, last = config.widths
        wide, embedding = config.last_widths
        depthwise = ConvNorm(stem, stem, 3, groups=stem, act=nn.ReLU())
        block = nn.Sequential(depthwise, ConvNorm(stem, first, 1))
        self.stem = ConvNorm(config.in_channels, stem, 3, stride=2, act=nn.Hardswish())
        self.first = Residual(stem, block, norm=nn.Identity) if stem == first else block
        self.expand = ConvNorm(last, wide, 1, act=nn.Hardswish())
        self.mix = nn.Linear(wide, embedding, bias=False)
        self.act = nn.Hardswish()
        self.dropout = nn.Dropout(DROPOUT)

    def lead(self, image: Tensor) -> Tensor:
        return self.first(self.stem(channels_last(image)))

    def embed(self, features: Tensor) -> Tensor:
        return self.dropout(self.act(self.mix(self.expand(features).mean((1, 2)))))


@register("once_for_all", OnceForAllConfig)
class OnceForAll(Backbone):
    """The super-network; `activate` chooses which part of it answers, `extract` cuts that part out.

    Take the images that you have: 128 to 224 pixels a side in the paper.
    """

    config: OnceForAllConfig

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = config.widths[2:], (4, 8, 16, 16, 32)
        self.ends = Ends(config)
        self.stages = nn.ModuleList(_elastic_stage(config, stage) for stage in range(len(STRIDES)))
        self.head = classifier(config.last_widths[1], config.num_classes)
        self.apply(init_conv_fan_out_)
        self.apply(init_linear_)
        self.activate(config.setting)

    @property
    def embed_dim(self) -> int:
        return self.config.last_widths[1]

    @property
    def elastic_blocks(self) -> list[ElasticMBConv]:
        return [part for part in self.stages.modules() if isinstance(part, ElasticMBConv)]

    def activate(self, setting: Setting) -> None:
        """Makes this part answer from now on. Raises ValueError for one that there is not."""
        self.config.check_setting(setting)
        self.setting = setting
        for block, kernel, expand in zip(self.elastic_blocks, setting.kernels, setting.expands, strict=True):
            block.kernel_size, block.expand_ratio = kernel, expand

    def idle_parameters(self) -> set[str]:
        """Those of skipped blocks, and the matrices of kernels smaller than the chosen ones."""
        most, idle = max(self.config.depths), set()
        blocks = {name: part for name, part in self.named_modules() if isinstance(part, ElasticMBConv)}
        for number, (name, block) in enumerate(blocks.items()):
            stage, index = divmod(number, most)
            skipped = index >= self.setting.depths[stage]
            used = {f"transforms.{step}" for step in block.active_transforms()}
            for own, _ in block.named_parameters():
                if skipped or (own.startswith("transforms.") and own not in used):
                    idle.add(f"{name}.{own}")
        return idle

    def maps(self, image: Tensor) -> list[Tensor]:
        active = zip(self.stages, self.setting.depths, strict=True)
        return pyramid(
            [nn.Sequential(*list(stage.children())[:depth]) for stage, depth in active], self.ends.lead(image)
        )

    def embed(self, image: Tensor) -> Tensor:
        return self.ends.embed(self.maps(image)[-1])

    @torch.no_grad()
    def extract(self) -> Subnet:
        """The active part as a network of its own with the same answers; measure its batch norms anew before use."""
        setting = self.setting
        shape = {f"active_{name}": value for name, value in setting._asdict().items()}
        subnet = Subnet(self.config.replace(function="subnet", **shape)).train(self.training)
        subnet.ends.load_state_dict(self.ends.state_dict())
        subnet.head.load_state_dict(self.head.state_dict())
        for cut, stage in zip(subnet.stages, self.stages, strict=True):
            for small, block in zip(cut.children(), stage.children(), strict=False):
                _inner(small).load_state_dict(_inner(block).extract().state_dict())
        return subnet

    def put_back_(self, whole: Subnet) -> None:
        """The largest part, as `extract` cut it out, with whatever has changed in it since."""
        self.ends.load_state_dict(whole.ends.state_dict())
        self.head.load_state_dict(whole.head.state_dict())
        for cut, stage in zip(whole.stages, self.stages, strict=True):
            for block, elastic in zip(cut.children(), stage.children(), strict=True):
                _inner(elastic).largest.load_state_dict(_inner(block).state_dict())

    def sort_channels_(self, stage: int) -> None:
        """Puts the channels inside that matter most first, behind those of the `stage` narrower ones trained before."""
        ratios = sorted(self.config.expand_ratios, reverse=True)
        for block in self.elastic_blocks:
            block.sort_channels_([block.hidden(ratio) for ratio in ratios[: stage + 1]] if stage else [])


@register_part("once_for_all", "subnet")
class Subnet(Backbone):
    """One sub-network, without anything that could be chosen."""

    config: OnceForAllConfig

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = config.widths[2:], (4, 8, 16, 16, 32)
        self.ends = Ends(config)
        self.stages = nn.ModuleList(_plain_stage(config, stage) for stage in range(len(STRIDES)))
        self.head = classifier(config.last_widths[1], config.num_classes)
        self.apply(init_conv_fan_out_)
        self.apply(init_linear_)

    @property
    def embed_dim(self) -> int:
        return self.config.last_widths[1]

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.ends.lead(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.ends.embed(self.maps(image)[-1])


@register_part("once_for_all", "layer")
class Layer(Model):
    """One elastic block: (B, C_in, H, W) -> its answers (B, C, H, W) for every kernel and expansion, by name."""

    config: OnceForAllConfig

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__(config)
        self.block = ElasticMBConv(
            config.in_channels,
            config.out_channels,
            kernel_sizes=config.kernel_sizes,
            expand_ratios=config.expand_ratios,
            stride=config.stride,
            act=_activation(config.act == "h_swish"),
            gate=config.se,
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = image.permute(0, 2, 3, 1)
        outputs = {}
        for kernel in self.config.kernel_sizes:
            for expand in self.config.expand_ratios:
                self.block.kernel_size, self.block.expand_ratio = kernel, expand
                outputs[f"out_k{kernel}_e{expand}"] = self.block(features).permute(0, 3, 1, 2)
        return outputs | {"logits": next(iter(outputs.values()))}


def _elastic_stage(config: OnceForAllConfig, stage: int) -> nn.Sequential:
    before, dim = config.widths[stage + 1], config.widths[stage + 2]
    return nn.Sequential(
        *(
            _shortcut(
                ElasticMBConv(
                    dim if index else before,
                    dim,
                    kernel_sizes=config.kernel_sizes,
                    expand_ratios=config.expand_ratios,
                    stride=1 if index else STRIDES[stage],
                    act=_activation(HARD_SWISH[stage]),
                    gate=GATED[stage],
                )
            )
            for index in range(max(config.depths))
        )
    )


def _plain_stage(config: OnceForAllConfig, stage: int) -> nn.Sequential:
    return nn.Sequential(*(plain_block(config, stage, index) for index in range(config.setting.depths[stage])))


def plain_block(config: OnceForAllConfig, stage: int, index: int) -> nn.Module:
    """A block of a sub-network: (B, H, W, C_in) -> (B, H / s, W / s, C)."""
    setting, number = config.setting, stage * max(config.depths) + index
    before, dim = config.widths[stage + 1], config.widths[stage + 2]
    in_dim = dim if index else before
    hidden = mobile_width(round(in_dim * setting.expands[number]))
    block = MBConv(
        in_dim,
        dim,
        hidden,
        kernel_size=setting.kernels[number],
        stride=1 if index else STRIDES[stage],
        act=_activation(HARD_SWISH[stage]),
        gate=gated(hidden) if GATED[stage] else None,
    )
    return _shortcut(block)


def _shortcut(block: ElasticMBConv | MBConv) -> nn.Module:
    """The block, with a residual connection where its shapes allow one."""
    whole = block.largest if isinstance(block, ElasticMBConv) else block
    in_dim, dim = whole.expand.conv.in_channels, whole.reduce.conv.out_channels
    same = in_dim == dim and whole.conv.conv.stride == (1, 1)
    return Residual(dim, block, norm=nn.Identity) if same else block


def _inner(block: nn.Module) -> Any:
    return block.inner if isinstance(block, Residual) else block


def _activation(hard_swish: bool) -> nn.Module:
    return nn.Hardswish() if hard_swish else nn.ReLU()


VARIANTS: dict[str, PartConfig] = {
    "ofa_mbv3": OnceForAllConfig(),
    "ofa_mbv3_w12": OnceForAllConfig(width_mult=1.2),
    "ofa_mbv3_largest": OnceForAllConfig(function="subnet"),
    "ofa_mbv3_smallest": OnceForAllConfig(
        function="subnet", active_kernels=(3,) * 20, active_expands=(3,) * 20, active_depths=(2,) * 5
    ),
}

REFERENCE_NAMES = [
    (r"^m\.", "block."),
    (r"^first_conv\.conv\.", "ends.stem.conv."),
    (r"^first_conv\.bn\.", "ends.stem.norm."),
    (r"^final_expand_layer\.conv\.", "ends.expand.conv."),
    (r"^final_expand_layer\.bn\.", "ends.expand.norm."),
    (r"^feature_mix_layer\.conv\.", "ends.mix."),
    (r"^classifier\.linear\.", "head."),
    (r"inverted_bottleneck\.conv\.conv\.", "largest.expand.conv."),
    (r"inverted_bottleneck\.bn\.bn\.", "largest.expand.norm."),
    (r"depth_conv\.conv\.(\d+to\d+)_matrix$", r"transforms.\1"),
    (r"depth_conv\.conv\.conv\.", "largest.conv.conv."),
    (r"depth_conv\.bn\.bn\.", "largest.conv.norm."),
    (r"depth_conv\.se\.fc\.reduce\.", "largest.gate.fc1."),
    (r"depth_conv\.se\.fc\.expand\.", "largest.gate.fc2."),
    (r"point_linear\.conv\.conv\.", "largest.reduce.conv."),
    (r"point_linear\.bn\.bn\.", "largest.reduce.norm."),
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The reference counts blocks through all stages, and those with a shortcut are not named apart."""
    if not isinstance(model, OnceForAll):
        return state
    return {_place(name, model): value for name, value in state.items()}


def _place(name: str, model: OnceForAll) -> str:
    match = re.match(r"blocks\.(\d+)\.conv\.(.*)", name)
    if not match:
        return name
    number, rest = int(match[1]), match[2]
    if number == 0:
        inner = "inner." if isinstance(model.ends.first, Residual) else ""
        rest = re.sub(r"^depth_conv\.bn\.", "0.norm.", re.sub(r"^depth_conv\.conv\.", "0.conv.", rest))
        rest = re.sub(r"^point_linear\.bn\.", "1.norm.", re.sub(r"^point_linear\.conv\.", "1.conv.", rest))
        return f"ends.first.{inner}{rest}"
    stage, index = divmod(number - 1, max(model.config.depths))
    block = list(model.stages[stage].children())[index]
    inner = "inner." if isinstance(block, Residual) else ""
    return f"stages.{stage}.{index}.{inner}{rest}"


def reference_outputs(model: OnceForAll | Layer, image: Tensor) -> dict[str, Tensor]:
    if isinstance(model, Layer):
        return _layer_outputs(copy.deepcopy(model.block), model.config)
    batches = (image[:2].detach(), image[1:3].detach())
    network, chosen = copy.deepcopy(model), model.setting
    subnet = network.extract()
    outputs = {
        "logits_raw": network(image),
        "logits": recalibrated(subnet, batches)(image),
        "subnet_params_k": torch.tensor([sum(parameter.numel() for parameter in subnet.parameters()) / 1e3]),
    }
    network.activate(model.config.largest)
    outputs["logits_max"] = recalibrated(network.extract(), batches)(image)
    network.sort_channels_(model.config.sort_stage)
    network.activate(chosen)
    return outputs | {"logits_sorted": recalibrated(network.extract(), batches)(image)}


def _layer_outputs(block: ElasticMBConv, config: OnceForAllConfig) -> dict[str, Tensor]:
    ratios = sorted(config.expand_ratios, reverse=True)[: config.sort_stage + 1]
    outputs = {}
    for kernel in config.kernel_sizes:
        block.kernel_size = kernel
        outputs[f"depthwise_k{kernel}"] = block.kernel(block.hidden(ratios[0])).clone()
    block.sort_channels_([block.hidden(ratio) for ratio in ratios] if config.sort_stage else [])
    gate, norm = block.largest.gate, block.largest.conv.norm
    bias = gate.fc1.bias if isinstance(gate, SqueezeExcite) else norm.get_parameter("bias")
    return outputs | {"sorted_pointwise": block.largest.reduce.conv.weight.flatten(1), "sorted_reduce_bias": bias}
