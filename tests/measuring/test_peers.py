"""Our models and timm's must be the same function before their times are compared."""

import pytest
import torch

from ommatid.measuring import peers
from ommatid.measuring.measure import image_for
from ommatid.measuring.peers import output_error, published_size, summarize, timm_twin
from ommatid.measuring.timm_families import TIMM_FAMILIES, TIMM_MODELS
from ommatid.models import create_model, list_models
from ommatid.models.registry import find

# The smallest model of each family that timm has too, with a short side of images that both take.
SMALLEST = {
    "vit": ("vit_tiny", 32),
    "convit": ("convit_tiny", 32),
    "tnt": ("tnt_small", 32),
    "crossvit": ("crossvit_tiny", 240),
    "swin": ("swin_tiny", 224),
    "swin_v2": ("swin_v2_tiny_window8", 64),
    "maxvit": ("maxvit_tiny_224", 224),
    "davit": ("davit_tiny", 64),
    "pvt_v2": ("pvt_v2_b0", 64),
    "convnext": ("convnext_tiny", 64),
    "efficientvit": ("efficientvit_m0", 64),
    "shvit": ("shvit_s1", 64),
    "inception_v4": ("inception_v4", 80),
    "inception_resnet": ("inception_resnet_v2", 80),
    "nasnet": ("nasnetalarge", 64),
    "halonet": ("halonet_h1", 256),
}


@pytest.mark.parametrize("family", TIMM_FAMILIES)
def test_twins_answer_alike(family: str) -> None:
    pytest.importorskip("timm", reason="timm, the peer, is not installed")
    name, size = SMALLEST[family]
    sized = {"image_size": size} if hasattr(find(name)[1], "image_size") else {}
    ours = create_model(name, num_classes=7, **sized).eval()
    twin = timm_twin(name, ours)
    assert output_error(ours, twin, image_for(ours, 1, (size, size))) < 1e-5


def test_twins_with_linear_attention_answer_alike() -> None:
    pytest.importorskip("timm", reason="timm, the peer, is not installed")
    ours = create_model("pvt_v2_b2_li", num_classes=7).eval()
    assert output_error(ours, timm_twin("pvt_v2_b2_li", ours), image_for(ours, 1, (64, 64))) < 1e-5


def test_every_paired_name_is_a_model_here_and_there() -> None:
    timm = pytest.importorskip("timm", reason="timm, the peer, is not installed")
    assert set(TIMM_MODELS) <= set(list_models())
    assert set(TIMM_MODELS.values()) <= set(timm.list_models())


def test_the_published_size_is_that_of_the_twin() -> None:
    timm = pytest.importorskip("timm", reason="timm, the peer, is not installed")
    assert published_size(timm.create_model("shvit_s4")) == (256, 256)


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
