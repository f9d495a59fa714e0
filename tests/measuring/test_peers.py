"""Our models and timm's must be the same function before their times are compared."""

import pytest
import torch

from ommatid.measuring import peers
from ommatid.measuring.measure import image_for
from ommatid.measuring.peers import TIMM_MODELS, output_error, summarize, timm_twin
from ommatid.models import create_model, list_models


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny", "convnext_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_twins_answer_alike(name: str) -> None:
    pytest.importorskip("timm", reason="timm, the peer, is not installed")
    ours = create_model(name, num_classes=7).eval()
    twin = timm_twin(name, ours)
    assert output_error(ours, twin, image_for(ours, 1, (224, 224))) < 1e-5


def test_every_paired_name_is_a_model_here_and_there() -> None:
    timm = pytest.importorskip("timm", reason="timm, the peer, is not installed")
    assert set(TIMM_MODELS) <= set(list_models())
    assert set(TIMM_MODELS.values()) <= set(timm.list_models())


def test_models_that_answer_differently_are_not_compared() -> None:
    ours, theirs = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    with pytest.raises(ValueError, match="not comparable"):
        output_error(ours, theirs, torch.randn(3, 4))


def test_outputs_that_are_no_numbers_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not comparable"):
        output_error(torch.nn.Identity(), torch.nn.Identity(), torch.tensor([float("nan")]))


def test_an_architecture_that_timm_lacks_is_named() -> None:
    pytest.importorskip("timm", reason="timm, the peer, is not installed")
    with pytest.raises(ValueError, match="timm has no model of the architecture 'nat_mini'"):
        timm_twin("nat_mini", torch.nn.Identity())


def test_a_missing_timm_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        peers.import_timm()


def test_the_ratio_is_the_peers_time_by_ours() -> None:
    result = summarize("peer", [(0.1, 0.2), (0.1, 0.3), (0.2, 0.2)], error=0.0)
    assert result.ratio == pytest.approx(2)
    assert (result.ratio_p25, result.ratio_p75) == pytest.approx((1.5, 2.5))
    assert result.latency_ms == pytest.approx(200)
