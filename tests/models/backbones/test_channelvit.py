"""ChannelViT beyond its reference cases: images that bring some channels, and training on samples of them."""

import pytest
import torch

import ommatid
from ommatid.models.backbones.channelvit import sampled_channels

TINY = {"image_size": 32, "patch_size": 8, "dim": 16, "heads": 2, "depth": 1, "num_classes": 3}
TINY |= {"in_channels": 4, "channels": (0, 1, 2, 3)}


def test_images_may_bring_any_channels() -> None:
    model = ommatid.create_model("channelvit", **TINY).eval()
    image = torch.rand(2, 4, 32, 32)
    assert model(image, (3, 1, 0, 2)).shape == (2, 3)
    assert model.tokens(image[:, :2], (3, 1)).shape == (2, 1 + 2 * 16, 16)
    # The channels' order is only the tokens' order.
    torch.testing.assert_close(model(image[:, [3, 1]], (3, 1)), model(image[:, [1, 3]], (1, 3)))
    assert not torch.allclose(model(image[:, [3, 1]], (3, 1)), model(image[:, [3, 1]], (1, 3)))


@pytest.mark.parametrize("channels", [(0, 4), (1, 1), (), (0, 1, 2)])
def test_channels_that_do_not_fit_are_refused(channels: tuple[int, ...]) -> None:
    model = ommatid.create_model("channelvit", **TINY)
    with pytest.raises(ValueError, match=r"channels = .* allowed is"):
        model(torch.rand(1, 2, 32, 32), channels)


def test_as_many_tokens_as_positions_use_the_table_as_it_is() -> None:
    model = ommatid.create_model("channelvit", **TINY)
    assert model.positions(1, (4, 4), square=True) is model.position
    assert model.positions(4, (2, 2), square=True) is model.position
    resampled = model.positions(2, (4, 4), square=True)
    assert resampled.shape == (1, 33, 16)
    assert torch.equal(resampled[:, 1:17], resampled[:, 17:])
    assert not torch.allclose(resampled[:, :17], model.position)


def test_samples_have_every_size_equally_often() -> None:
    torch.manual_seed(0)
    samples = [sampled_channels(4) for _ in range(800)]
    assert all(len(sample.unique()) == len(sample) for sample in samples)
    sizes = torch.tensor([len(sample) for sample in samples]).bincount(minlength=5)
    assert sizes[0] == 0
    assert all(150 < size < 250 for size in sizes[1:])


def test_sampling_is_for_training_only() -> None:
    torch.manual_seed(0)
    model = ommatid.create_model("channelvit", **TINY, channel_sampling=True)
    image = torch.rand(1, 4, 32, 32)
    assert {model.tokens(image).shape[1] for _ in range(20)} == {17, 33, 49, 65}
    assert model.eval().tokens(image).shape[1] == 65
