"""What 4M sees, what it must not see, and how tokens are chosen for it."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.pretraining.fourm import FourM, draw_budget, draw_spans, image_sample, mask_spans, sequence_sample
from ommatid.methods.pretraining.fourm.embeddings import Modality
from ommatid.methods.pretraining.fourm.network import mean_of_logits, mean_of_modalities
from ommatid.methods.pretraining.fourm.samples import Sample

MODALITIES = [
    Modality(name="rgb", type="pixels", id=3),
    Modality(name="depth", type="tokens", id=1, vocab_size=11),
    Modality(name="caption", type="sequence", id=2, vocab_size=13, max_length=10),
]


def network(**options: bool) -> FourM:
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "encoder_depth": 2, "decoder_depth": 2, "grid": (4, 4), "patch_size": 4}
    return FourM(MODALITIES, **sizes, registers=1, **options).eval()


@pytest.fixture
def samples() -> dict[str, Sample]:
    torch.manual_seed(1)
    return {
        "rgb": image_sample(torch.rand(2, 3, 16, 16), torch.rand(2, 16), [6, 4], [0, 0]),
        "depth": image_sample(torch.randint(11, (2, 16)), torch.rand(2, 16), [0, 3], [5, None]),
        "caption": sequence_sample(torch.randint(1, 13, (2, 10)), [3, 0], [4, 6]),
    }


def test_tokens_that_are_not_used_have_no_influence(samples: dict[str, Sample]) -> None:
    model, before = network(), samples["caption"]
    other = before._replace(values=torch.where(before.shown | before.asked, before.values, 12))
    changed = samples | {"caption": other}
    assert mean_of_logits(model(changed, 20, 30)) == mean_of_logits(model(samples, 20, 30))


def test_more_room_changes_nothing(samples: dict[str, Sample]) -> None:
    model = network(norm_heads=True, causal=True)
    torch.testing.assert_close(
        mean_of_modalities(model(samples, 30, 40)), mean_of_modalities(model(samples, 12, 24)), atol=1e-5, rtol=1e-5
    )


def test_what_is_asked_of_an_image_is_not_seen(samples: dict[str, Sample]) -> None:
    model, before = network(separate=False), samples["depth"]
    changed = samples | {"depth": before._replace(values=torch.where(before.asked, 0, before.values))}
    expected, found = model(samples, 20, 30), model(changed, 20, 30)
    assert torch.equal(found["depth"][0], expected["depth"][0])
    assert (found["depth"][1] == 0).all()


def test_tokens_of_a_sequence_see_those_before_them_only(samples: dict[str, Sample]) -> None:
    model, before = network(), samples["caption"]
    ids = before.values.clone()
    ids[0, 6], ids[1, 5] = 0, 0  # the last that is asked for
    expected, found = model(samples, 20, 30), model(samples | {"caption": before._replace(values=ids)}, 20, 30)
    assert torch.equal(found["caption"][0], expected["caption"][0])
    ids[:, :3] = 1
    found = model(samples | {"caption": before._replace(values=ids)}, 20, 30)
    assert not torch.allclose(found["caption"][0], expected["caption"][0], atol=1e-3)


def test_separate_modalities_do_not_see_what_is_asked_of_others(samples: dict[str, Sample]) -> None:
    before = samples["depth"]
    fewer = before._replace(asked=torch.zeros_like(before.asked), reach=torch.zeros_like(before.reach))
    for separate in (True, False):
        model = network(separate=separate)
        answers = [model(some, 20, 30)["caption"][0] for some in (samples, samples | {"depth": fewer})]
        assert torch.allclose(*answers, atol=1e-5) == separate


def test_every_parameter_is_trained(samples: dict[str, Sample]) -> None:
    model = network(shared=False, norm_heads=True, bias=True, gated=False)
    mean_of_modalities(model(samples, 20, 30, order=["caption", "depth"])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_spans_are_put_back_by_their_sentinels() -> None:
    ids, keep = torch.tensor([[50, 51, 52, 53]]), torch.tensor([[True, False, False, True]])
    shown, asked = mask_spans(ids, keep, 4)
    assert shown.tolist() == [[50, 4, 53, *[-1] * 7]]
    assert asked.tolist() == [[4, 51, 52, 5, *[-1] * 6]]


@pytest.mark.parametrize("mode", ["random", "all", "binary"])
def test_drawn_spans_fit_their_budgets(mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shown, asked = draw_spans(torch.arange(100, 130), 9, 7, 4, mode=mode, generator=generator)
        assert len(shown) <= 9
        assert len(asked) <= 7
        assert 4 <= asked[0] < 100
    assert len(draw_spans(torch.arange(100, 110), 0, 20, 4, generator=generator)[0]) == 0


def test_drawn_budgets_are_within_their_limits() -> None:
    torch.manual_seed(0)
    least, most = torch.tensor([0, 2, 0]), torch.tensor([16, 16, 4])
    budgets = torch.stack([draw_budget([[1.0, 1.0, 1.0], [0.1, 5.0, 0.1]], 20, least, most) for _ in range(20)])
    assert (budgets >= least).all()
    assert (budgets <= most).all()
    assert (budgets.sum(1) <= 20).all()
    with pytest.raises(ValueError, match="least"):
        draw_budget([[1.0, 1.0]], 3, torch.tensor([2, 2]), torch.tensor([9, 9]))


@pytest.mark.parametrize(
    "modalities",
    [
        [{"name": "a", "type": "pixels", "id": 1}, {"name": "b", "type": "pixels", "id": 1}],
        [{"name": "a", "type": "tokens", "id": 1}],
        [{"name": "a.b", "type": "pixels", "id": 1}],
    ],
    ids=["twice", "no vocabulary", "dots"],
)
def test_impossible_modalities_are_refused(modalities: list[dict]) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        ommatid.create_model("fourm", modalities=modalities)
