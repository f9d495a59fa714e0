"""The whole treatment for every registered family. A new family with cases in tests/parity/cases needs no test code."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from subjects import CASES, NAMES, SYSTEMS, Subject, assert_close, subject

import ommatid
from ommatid.catalog import parity
from ommatid.models import Backbone, families
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.restorer import Restorer
from ommatid.models.sizes import pair
from ommatid.workflows.verify import check_case, check_published, published


def class_of(id: str, name: str) -> type[torch.nn.Module]:
    """What the case is of. Of a procedure nothing is asked that only a model promises."""
    family = families()[id]
    return family.class_of(family.config.from_dict(parity.load_case(CASES / id, name).config))


MODELS = [names for names in NAMES if not issubclass(class_of(*names), Procedure)]

# Exporting takes seconds: the first case of every class stands for its others.
EXPORTED = list({class_of(*names): names for names in reversed(MODELS)}.values())


@pytest.fixture(params=MODELS, ids="-".join)
def tiny(request: pytest.FixtureRequest) -> Subject:
    torch.manual_seed(0)
    return subject(*request.param)


@pytest.mark.parametrize(("id", "name"), NAMES, ids=["-".join(pair) for pair in NAMES])
def test_gives_the_reference_outputs_and_gradients(id: str, name: str) -> None:
    result = check_case(id, CASES / id, name)
    assert result.ok, result


@pytest.mark.parametrize("id", SYSTEMS)
def test_published_variants_have_their_exact_parameter_counts(id: str) -> None:
    for result in check_published(families()[id], CASES / id):
        assert result.ok, result


@pytest.mark.parametrize("id", SYSTEMS)
def test_published_variants_are_registered(id: str) -> None:
    def comparable(config: ommatid.models.Config) -> dict:
        values = dataclasses.asdict(config) | {"num_classes": 1000}
        return values | ({"image_size": pair(values["image_size"])} if "image_size" in values else {})

    family = families()[id]
    registered = [comparable(config) for config in family.variants.values()]
    for row in published(CASES / id):
        assert comparable(family.config.from_dict(row["config"])) in registered, f"{row['name']} is not registered"


def test_other_image_sizes_work_or_are_refused_clearly(tiny: Subject) -> None:
    if set(tiny.inputs) != {"image"} or tiny.inputs["image"].dim() != 4:
        pytest.skip("takes more than one image")
    batch, channels, height, width = tiny.inputs["image"].shape
    for size in [(height + 13, width + 5), (height - 7, 2 * width + 1)]:
        check_other_size(tiny, torch.rand(batch, channels, *size))


def check_other_size(tiny: Subject, image: torch.Tensor) -> None:
    try:
        answer = tiny.answer(image=image)
    except ValueError as error:
        refusal = str(error)
    else:
        assert all(torch.isfinite(value).all() for value in answer.values())
        return
    assert "allowed is" in refusal


def test_every_parameter_gets_a_finite_gradient(tiny: Subject) -> None:
    skip_without_parameters(tiny)
    tiny.model.train()
    loss = sum(value.float().square().mean() for value in trained_answers(tiny))
    loss.backward()
    idle = tiny.model.idle_parameters() if isinstance(tiny.model, Model) else set()
    for name, parameter in tiny.model.named_parameters():
        if parameter.requires_grad and name not in idle:
            assert parameter.grad is not None, f"{name} has no gradient"
            assert torch.isfinite(parameter.grad).all(), f"{name} has a gradient that is not finite"


def trained_answers(tiny: Subject) -> list[torch.Tensor]:
    """All that a loss sees: of a restoration network also the answers at smaller sizes, in which some parts end."""
    return tiny.model.restorations(**tiny.inputs) if isinstance(tiny.model, Restorer) else [*tiny.answer().values()]


def test_training_lowers_the_loss_of_a_small_batch(tiny: Subject) -> None:
    skip_without_parameters(tiny)
    # At least four samples: of two, a batch norm without spatial axes leaves nothing but signs.
    inputs = {name: torch.cat([value, value.roll(1, -1), value.roll(2, -1)]) for name, value in tiny.inputs.items()}
    answer = tiny.answer(**inputs)
    targets = {name: torch.randn_like(value) for name, value in answer.items() if value.is_floating_point()}

    def losses(learning_rate: float) -> list[float]:
        model = copy.deepcopy(tiny.model).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
        values = []
        for _ in range(8):
            optimizer.zero_grad()
            answer = tiny.answer(model, **inputs)
            loss = sum((answer[name] - target).square().mean() for name, target in targets.items())
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        return values

    # Against the same steps without learning: some architectures change by themselves while they train.
    trained, untrained = losses(1e-3), losses(0.0)
    assert min(trained[4:]) < min(untrained[4:]), (trained, untrained)


def skip_without_parameters(tiny: Subject) -> None:
    if not list(tiny.model.parameters()):
        pytest.skip("an operator: it has no parameters")


def test_deployed_copy_agrees(tiny: Subject) -> None:
    if not hasattr(tiny.model, "deploy"):
        pytest.skip("has no deployed form")
    before = copy.deepcopy(tiny.model.state_dict())
    with torch.no_grad():
        assert_close(tiny.answer(tiny.model.deploy()), tiny.answer(), 1e-4)
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())


def test_survives_saving_and_loading(tiny: Subject, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    ommatid.models.save(tiny.model, path)
    loaded = ommatid.load(path)
    assert loaded.config == tiny.model.config
    with torch.no_grad():
        mine, theirs = tiny.answer(loaded), tiny.answer()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("tiny", EXPORTED, indirect=True, ids="-".join)
def test_survives_export(tiny: Subject) -> None:
    program = torch.export.export(tiny.model, (), kwargs=tiny.inputs)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    with torch.no_grad():
        assert_close(tiny.answer(torch.export.load(buffer).module()), tiny.answer(), 1e-4)


def test_bfloat16_autocast_stays_close(tiny: Subject) -> None:
    with torch.no_grad():
        expected = tiny.answer()
        with torch.autocast("cpu", torch.bfloat16):
            answer = tiny.answer()
    assert_close(answer, expected, 0.1)


def test_one_image_does_not_see_the_others(tiny: Subject) -> None:
    if getattr(tiny.model, "batch_dependent", False):
        pytest.skip("the published definition couples the images of a batch")
    pairs = {name: torch.cat([value, value.roll(1, -1)])[:2] for name, value in tiny.inputs.items()}
    with torch.no_grad():
        together = tiny.answer(**pairs)
        alone = tiny.answer(**{name: value[1:2] for name, value in pairs.items()})
    assert_close(alone, {name: value[1:2] for name, value in together.items()}, 1e-5)


def test_features_are_views_of_channels_last_maps(tiny: Subject) -> None:
    if not isinstance(tiny.model, Backbone):
        pytest.skip("not a backbone")
    image = tiny.inputs["image"]
    with torch.no_grad():
        features = tiny.model.features(image)
        embedding = tiny.model.embed(image)
    assert embedding.shape == (len(image), tiny.model.embed_dim)
    assert [stage.shape[1] for stage in features] == list(tiny.model.channels)
    assert all(stage.permute(0, 2, 3, 1).stride(-1) == 1 for stage in features)


def test_maps_grow_with_the_image_by_their_strides(tiny: Subject) -> None:
    if not isinstance(tiny.model, Backbone) or tiny.inputs["image"].dim() != 4:
        pytest.skip("no backbone of images")
    image, coarsest = tiny.inputs["image"], max(tiny.model.strides)
    taller = torch.rand(*image.shape[:2], image.shape[2] + 2 * coarsest, image.shape[3])
    with torch.no_grad():
        try:
            features = tiny.model.features(taller)
        except ValueError as refusal:
            pytest.skip(f"takes no other size: {refusal}")
        grown = [
            after.shape[2] - before.shape[2] for before, after in zip(tiny.model.features(image), features, strict=True)
        ]
    # A model that resizes images itself has the same maps for all.
    assert grown == [2 * coarsest // stride for stride in tiny.model.strides] or not any(grown)


def test_without_classifier_gives_the_embedding(tiny: Subject) -> None:
    if not isinstance(tiny.model, Backbone):
        pytest.skip("not a backbone")
    model = ommatid.create_model(tiny.id, **tiny.config | {"num_classes": 0}).eval()
    with torch.no_grad():
        assert torch.equal(model(tiny.inputs["image"]), model.embed(tiny.inputs["image"]))
