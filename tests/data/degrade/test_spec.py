from __future__ import annotations

import pytest
import torch

from ommatid.data.degrade import parse

EVERYTHING = ["bicubic x4", "noise 25", "noise 0-50", "jpeg 10-90", "motion 5-15", "defocus 1-4", "rain 0.2-0.5"]
EVERYTHING += ["haze 0.3-0.8", "lowlight 0.2-0.5", "defocus 1-2 + bicubic x2 + noise 0-10 + jpeg 60-95"]


@pytest.mark.parametrize("text", EVERYTHING)
def test_the_text_of_what_was_parsed_is_parsed_again(text: str) -> None:
    assert parse(text).text == text
    assert parse(parse(text).text) == parse(text)


def test_writing_is_free_and_the_text_canonical() -> None:
    assert parse("  Defocus 1.0-2+BICUBIC  x3 +haze ").text == "defocus 1-2 + bicubic x3 + haze 0.3-0.8"


@pytest.mark.parametrize("text", EVERYTHING)
def test_a_seed_says_it_all_and_another_something_else(text: str) -> None:
    degradation, picture = parse(text), torch.rand(3, 41, 54)
    one, same, other = (degradation(picture, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, -(-41 // degradation.scale), -(-54 // degradation.scale))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (text == "bicubic x4")


def test_scale_reach_and_grid_are_those_of_all_steps() -> None:
    assert (parse("noise 25").scale, parse("noise 25").reach, parse("noise 25").grid) == (1, 0, 1)
    assert parse("bicubic x3").scale == 3
    together = parse("defocus 2 + bicubic x2 + jpeg 50")
    assert (together.scale, together.reach, together.grid) == (2, 2 + 2 * 2 + 2 * 16, 16)


def test_steps_are_taken_from_left_to_right() -> None:
    picture = torch.cat((torch.zeros(3, 32, 16), torch.ones(3, 32, 16)), dim=2)
    noisy_last = parse("bicubic x2 + noise 25")(picture, torch.Generator().manual_seed(0))
    noisy_first = parse("noise 25 + bicubic x2")(picture, torch.Generator().manual_seed(0))
    assert noisy_last.min() < 0 < 1 < noisy_last.max()
    assert 0 <= noisy_first.min() <= noisy_first.max() <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bicubic x5", "x2, x3, x4 or x8, not 'x5'"),
        ("bicubic", "x2, x3, x4 or x8"),
        ("bicubic x2 + bicubic x3", "more than one bicubic"),
        ("nois 25", "did you mean noise"),
        ("noise25", "did you mean noise"),
        ("x4", "did you mean bicubic"),
        ("jpg 10", "did you mean jpeg"),
        ("noise", "from 0 to 255 .*not ''"),
        ("noise 300", "from 0 to 255 .*not '300'"),
        ("noise -5", "not '-5'"),
        ("noise 50-10", "the smaller first"),
        ("jpeg 0", "from 1 to 100"),
        ("haze 1", "from 0 to 0.99"),
        ("noise 25 bicubic x2", r"join degradations by \+"),
        ("noise 25 +", "no degradation is called ''"),
        ("", "there are bicubic, noise, jpeg, motion, defocus, rain, haze, lowlight"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)
