"""FIT: who sees whom, for all forms and positions, and what cannot be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ommatid.models import create_model
from ommatid.models.modules.fit import grouped_patches

SHAPE: dict[str, Any] = {
    **{"groups": 3, "latents_per_group": 2, "dim": 12, "latent_dim": 16, "heads": 3, "latent_heads": 2},
    **{"mlp_ratio": 2, "tokens": 12, "in_channels": 5, "vocabulary": 7},
}


def network(**changes: Any) -> Any:
    torch.manual_seed(0)
    return create_model("fit", **SHAPE | changes).eval()


def test_logits_depend_on_nothing_later() -> None:
    model = network(variant="autoregressive", layers="(1)1(1)2(1)", shared_embedding=False, output_bias=False)
    ids = torch.randint(0, 7, (1, 3, 4))
    for place in range(12):
        changed = ids.clone()
        changed.view(-1)[place] = (changed.view(-1)[place] + 1) % 7
        with torch.no_grad():
            differs = (model(changed)["logits"] != model(ids)["logits"]).any(-1).flatten()
        assert not differs[:place].any()
        assert differs[place]
        assert differs[-1]


def test_what_no_token_reads_is_idle() -> None:
    model = network(variant="autoregressive", layers="(1)1(1)1").train()
    model(torch.randint(0, 7, (1, 3, 4)))["logits"].sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == model.idle_parameters() != set()


@pytest.mark.parametrize(("layers", "crosses"), [("(2)", False), ("(1)1", False), ("(1)1(0)1", True)])
def test_tokens_hear_of_other_groups_only_from_latents(layers: str, crosses: bool) -> None:
    model, tokens = network(layers=layers), torch.randn(1, 3, 4, 5)
    changed = torch.cat([tokens[:, :2], torch.randn(1, 1, 4, 5)], 1)
    with torch.no_grad():
        same = torch.equal(model(tokens)["tokens"][:, 0], model(changed)["tokens"][:, 0])
    assert same != crosses


def test_causal_latents_see_their_group_and_those_before() -> None:
    model, tokens = network(layers="(1)2", causal=True), torch.randn(1, 3, 4, 5)
    changed = torch.cat([tokens[:, :1], torch.randn(1, 1, 4, 5), tokens[:, 2:]], 1)
    with torch.no_grad():
        differs = (model(tokens)["latents"] != model(changed)["latents"]).flatten(2).any(-1)[0]
    assert differs.tolist() == [False, True, True]


def test_extra_tokens_come_first() -> None:
    model = network(layers="(1)1(1)", extra_channels=6, token_position="sin_cos2d", latent_position="sin_cos")
    answer = model(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 6))
    assert answer["tokens"].shape == (2, 3, 6, 12)
    assert model(torch.randn(2, 3, 4, 5))["tokens"].shape == (2, 3, 4, 12)
    with pytest.raises(ValueError, match=r"extra.*allowed is none"):
        network()(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2, 6))


def test_a_denoiser_without_attention_inside_groups() -> None:
    options = {"token_attention": False, "cross_norm": False, "self_condition": True, "condition_channels": 4}
    model = network(variant="denoiser", layers="(1)1(2)1", token_position="sin_cos", out_channels=3, **options)
    inputs = torch.randn(2, 3, 4, 5), torch.rand(2), torch.randn(2, 2, 4)
    output, latents = model.network(*inputs)
    assert output.shape == (2, 3, 4, 3)
    # The norm behind what is remembered starts at 0.
    assert torch.equal(model.network(*inputs, latents)[0], output)


def test_patches_of_sub_images() -> None:
    image = torch.arange(2 * 8 * 12, dtype=torch.float32).view(1, 2, 8, 12)
    patches = grouped_patches(image, (2, 3), 2)
    assert patches.shape == (1, 6, 4, 8)
    expected = image[0, :, 4:6, 10:12].permute(1, 2, 0).flatten()  # sub-image (1, 2), patch (0, 1)
    assert torch.equal(patches[0, 5, 1], expected)
    with pytest.raises(ValueError, match=r"image size = \(8, 10\)"):
        grouped_patches(image[..., :10], (2, 3), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "(1)(1)"}, "layers = "),
        ({"layers": "1(1)"}, "layers = "),
        ({"layers": "(1)0(1)"}, "layers = .*above 0 behind every segment but the last"),
        ({"tokens": 13}, r"tokens = 13.*a multiple of groups \(3\)"),
        ({"token_position": "sin_cos2d", "tokens": 18}, "token_position = "),
        ({"token_position": "sin_cos", "tokens": 3}, "token_position = "),
        ({"variant": "denoiser", "latent_dim": 18}, "latent_dim = 18"),
        ({"latent_heads": 3}, "latent_heads = 3"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"groups and tokens of each = \(4, 3\).*allowed is \(3, 4\)"):
        network()(torch.randn(1, 4, 3, 5))
