"""The free composition: every part with every other, and all that the contract of backbones promises."""

from __future__ import annotations

import io
import json
from itertools import product

import pytest
import torch
import yaml
from torch import Tensor

import ommatid
from ommatid.models import Backbone
from ommatid.models.backbones.pyramid import PyramidConfig
from ommatid.nn.parts import parts

MIXERS, CHANNEL_MIXERS = list(parts("mixer")), list(parts("channel_mixer"))
PAIRS = [pair for pair in product(MIXERS, CHANNEL_MIXERS) if pair != ("none", "none")]

MIXTURE = {
    "image_size": 64,
    "dims": (32, 48, 64),
    "depths": (1, 2, 2),
    "mixer": ("large_kernel", ["window", ("window", {"window_size": 4, "shifted": True})], ("attention", {"heads": 4})),
    "channel_mixer": ["conv_glu", "mlp", "batch_norm_mlp"],
    "mlp_ratios": (2.0, 2.5, 3.0),
    "norm": "batch",
    "position": "conditional",
    "layer_scale": 0.1,
    "drop_path_rate": 0.1,
    "num_classes": 5,
}


def made(**config: object) -> Backbone:
    torch.manual_seed(0)
    model = ommatid.create_model("pyramid", **config)
    assert isinstance(model, Backbone)
    return model


def answer(model: Backbone, size: tuple[int, int] = (45, 70), images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model.eval()(torch.rand(images, 3, *size, generator=generator))


@pytest.mark.parametrize(("mixer", "channel_mixer"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_every_mixer_with_every_channel_mixer_learns_on_an_odd_size(mixer: str, channel_mixer: str) -> None:
    model = made(
        image_size=32, dims=(32,), depths=(1,), mixer=mixer, channel_mixer=channel_mixer, mlp_ratios=1, num_classes=2
    )
    image, target = torch.rand(2, 3, 19, 27), torch.tensor([0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.head.weight.detach().clone()
    loss = torch.nn.functional.cross_entropy(model(image), target)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    optimizer.step()
    assert not torch.equal(before, model.head.weight)
    assert torch.isfinite(answer(model, (19, 27))).all()


@pytest.mark.parametrize("stem", parts("stem"))
@pytest.mark.parametrize("downsample", parts("downsample"))
def test_stems_and_downsamples_shrink_by_the_strides(stem: str, downsample: str) -> None:
    model = made(image_size=32, dims=(16, 32), depths=(1, 1), stem=stem, downsample=downsample, mlp_ratios=1)
    for side in (32, 37):
        shapes = [tuple(features.shape[1:]) for features in model.features(torch.rand(2, 3, side, side))]
        assert shapes == [(16, -(-side // 4), -(-side // 4)), (32, -(-side // 8), -(-side // 8))]


@pytest.mark.parametrize("norm", parts("norm"))
@pytest.mark.parametrize("position", parts("position"))
def test_norms_and_positions(norm: str, position: str) -> None:
    model = made(image_size=32, dims=(16, 32), depths=(1, 1), norm=norm, position=position, mlp_ratios=1)
    assert torch.isfinite(answer(model)).all()


def test_deployed_copy_agrees() -> None:
    model = made(**MIXTURE)
    model.train()(torch.rand(4, 3, 64, 64))  # norms with statistics of their own
    expected = answer(model)
    torch.testing.assert_close(answer(model.deploy()), expected, rtol=1e-4, atol=1e-5)


def test_what_was_written_comes_back(tmp_path) -> None:
    model = made(**MIXTURE)
    model.save(tmp_path / "model.safetensors")
    loaded = ommatid.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert torch.equal(answer(loaded), answer(model))
    values = json.loads(json.dumps(model.config.to_dict()))
    assert PyramidConfig.from_dict(values) == model.config
    assert PyramidConfig.from_dict(yaml.safe_load(yaml.safe_dump(values))) == model.config


def test_export() -> None:
    model = made(**MIXTURE | {"norm": "layer"}).eval()
    image = torch.rand(2, 3, 64, 64)
    program = torch.export.export(model, (image,))
    torch.export.save(program, io.BytesIO())
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), model(image), rtol=1e-4, atol=1e-5)


def test_one_stage_is_a_plain_model() -> None:
    model = made(
        image_size=64, patch_size=16, dims=(64,), depths=(2,), stem="patch", mixer="attention", position="absolute"
    )
    assert model.tokens(torch.rand(2, 3, 50, 70)).shape == (2, 4 * 5, 64)
    assert made(image_size=32, dims=(32,), depths=(1,), num_classes=0)(torch.rand(2, 3, 32, 32)).shape == (2, 32)


def test_one_image_does_not_see_the_others() -> None:
    model = made(**MIXTURE)
    torch.testing.assert_close(answer(model, images=1), answer(model)[:1], rtol=1e-5, atol=1e-6)


def test_commas_and_short_lists_are_spread_over_the_stages() -> None:
    config = PyramidConfig(mixer="window,attention", channel_mixer="mlp")
    assert config.mixer == ("window", "attention")
    assert [next(config.blocks(stage)) for stage in range(4)] == [
        *[("window", "mlp")] * 2,
        *[("attention", "mlp")] * 2,
    ]


def test_a_list_in_a_stage_takes_turns() -> None:
    config = PyramidConfig(mixer=("window", "window", ["window", "attention"], "attention"), depths=(1, 1, 3, 1))
    assert [mixer for mixer, _ in config.blocks(2)] == ["window", "attention", "window"]


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"mixer": "windw"}, r"mixer = 'windw' is not possible \(did you mean 'window'"),
        ({"mixer": ("window", "attention", "ss2d")}, "allowed is one part for all stages, or a list of 1 or 2 or 4"),
        ({"mixer": ("window", {"window_siz": 3})}, r"has no option 'window_siz' \(did you mean 'window_size'\?\)"),
        (
            {"mixer": ("window", {"window_size": "a"})},
            "window.window_size = 'a' is not possible: allowed is an integer",
        ),
        (
            {"mixer": ("attention", {"heads": 5})},
            r"in stage 1, 48 wide .* heads = 5 .* allowed is a divisor of the width",
        ),
        ({"mixer": ("neighborhood", {"kernel_size": 4})}, "kernel_size = 4 is not possible: allowed is odd"),
        ({"mixer": ("bi_level_routing", {"regions": 2, "topk": 9})}, "topk = 9 is not possible"),
        ({"mixer": ("windowed", {"mixer": ["attention", {"heads": 7}]})}, "in 'windowed', in stage 1.* heads = 7"),
        ({"mixer": "large_small", "dims": (50, 50, 50, 50)}, "'large_small' is not possible in stage 1, 50 wide"),
        ({"mixer": "none", "channel_mixer": "none"}, "another part where the mixer is 'none' too"),
        ({"mixer": 3}, "mixer = 3 is not possible"),
        ({"mixer": [["window", {"window_size": {1}}]]}, "holds more than numbers, words and lists"),
        ({"channel_mixer": "moo"}, "channel_mixer = 'moo' is not possible"),
        ({"stem": "conv", "patch_size": 3}, "patch_size = 3 is not possible"),
        ({"depths": (1, 2)}, "depths"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(config: dict, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal) as caught:
        made(**config)
    assert "\n" not in str(caught.value)


def test_trying_the_parts_leaves_the_random_numbers_alone() -> None:
    first = made(image_size=32, dims=(16,), depths=(1,), mixer="window_mlp")
    second = made(image_size=32, dims=(16,), depths=(1,), mixer="window_mlp")
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
