"""A ViT as an ensemble of its paths: the same answers until something is weighted or dropped."""

from __future__ import annotations

import pytest
import torch

from ommatid.methods.path_ensemble import correct_without_each, select_paths
from ommatid.methods.path_ensemble.model import PathEnsemble, ensemble_of
from ommatid.models import create_model

TINY = {"image_size": 16, "patch_size": 4, "dim": 12, "depth": 2, "heads": 2, "num_classes": 5}


@pytest.fixture
def ensemble() -> PathEnsemble:
    torch.manual_seed(0)
    return ensemble_of(create_model("vit", **TINY).eval())


def test_a_vit_answers_the_same_as_an_ensemble() -> None:
    torch.manual_seed(0)
    vit, image = create_model("vit", **TINY).eval(), torch.rand(3, 3, 20, 17)
    ensemble = ensemble_of(vit)
    torch.testing.assert_close(ensemble(image), vit(image))
    torch.testing.assert_close(ensemble.paths(image).sum(1), vit.tokens(image)[:, 0])
    torch.testing.assert_close(ensemble.prefix_logits(image)[:, -1], vit(image))


def test_a_vit_without_a_class_token_is_refused() -> None:
    vit = create_model("vit", **TINY, class_token=False, global_pool="avg")
    with pytest.raises(ValueError, match="a plain ViT such as"):
        ensemble_of(vit)


def test_pruning_a_path_gives_what_was_measured_without_it(ensemble: PathEnsemble) -> None:
    image = torch.rand(2, 3, 16, 16)
    without = ensemble.deletion_logits(image)[1]
    ensemble.ensemble.kept[3] = 0
    torch.testing.assert_close(ensemble(image), without[:, 3])
    torch.testing.assert_close(ensemble.deletion_logits(image)[1][:, 3], without[:, 3])


def test_paths_that_mislead_are_selected_on_held_out_images(ensemble: PathEnsemble) -> None:
    image = torch.rand(8, 3, 16, 16)
    # The labels are what the model would answer without its fourth path.
    labels = ensemble.deletion_logits(image)[1][:, 3].argmax(-1)
    correct = correct_without_each(ensemble, zip(image.split(3), labels.split(3), strict=True))
    assert correct.shape == (6, 8)
    chosen = select_paths(correct)
    assert chosen.accuracy[4] == 1
    assert chosen.pruned[3] == (chosen.accuracy[0] < 1)


def test_distillation_is_an_auxiliary_loss_that_reaches_only_the_shorter_prefixes() -> None:
    torch.manual_seed(0)
    model, image = create_model("path_ensemble", **TINY, weight=0.5), torch.rand(2, 3, 16, 16)
    logits, loss = model.with_auxiliary_loss(image)
    torch.testing.assert_close(logits, model(image))
    assert loss > 0
    loss.backward()
    first, last = (model.trunk.blocks[block].channel.inner.fc2.weight.grad for block in (0, -1))
    assert first is not None
    assert first.abs().max() > 0
    assert last is None or last.abs().max() == 0
