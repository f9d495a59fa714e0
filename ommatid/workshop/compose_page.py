"""The workshop: parts are picked for every stage, and what comes of it is seen at once."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from markupsafe import Markup
from PIL import Image

from ommatid.measuring.influence import receptive_field
from ommatid.measuring.measure import measure
from ommatid.measuring.part_costs import CostTable
from ommatid.models import create_model
from ommatid.models.backbone import Backbone
from ommatid.models.backbones.pyramid import PyramidConfig
from ommatid.models.config import require
from ommatid.nn.parts import Role, parts
from ommatid.report.formats import count, significant
from ommatid.report.page import element
from ommatid.workshop.drawing import drawing
from ommatid.workshop.pictures import heat
from ommatid.workshop.sketch import Sketch, sketch

STAGES = 4
DIMS, DEPTHS = (32, 64, 128, 192), (1, 1, 2, 1)
MOST = {"image side": 1024, "classes": 100_000, "width": 4096, "blocks": 64}
LARGEST_MEASURED = 512
FIELD_IMAGES = 4
"""Random images whose gradients are averaged to an effective receptive field."""


def compose_page() -> None:
    """The controls and what they change, inside the `Blocks` that is open."""
    gr.Markdown(
        "## Compose a model\nEvery choice is a part of a published architecture; `ommatid parts` lists them all."
    )
    with gr.Row():
        size = gr.Number(label="image side", value=64, precision=0, elem_id="size")
        classes = gr.Number(label="classes", value=10, precision=0)
        patch = gr.Dropdown([2, 4, 8, 16], value=4, label="stride of the stem")
        stem, downsample, norm, position = (
            gr.Dropdown(list(parts(role)), value=value, label=role) for role, value in _usual_parts()
        )
    stages = [_stage_controls(number) for number in range(STAGES)]
    controls = [size, classes, patch, stem, downsample, norm, position, *(one for stage in stages for one in stage)]
    found = gr.HTML(elem_id="sketch", padding=False)
    predicted = gr.HTML(elem_id="predicted", padding=False)
    text = gr.Code(
        label="the same as a file, for `ommatid compare DATA --models FILE`", language="yaml", elem_id="yaml"
    )
    with gr.Row():
        measuring = gr.Button("Measure on this machine", elem_id="measure")
        looking = gr.Button("Effective receptive field", elem_id="field")
    measured = gr.HTML(elem_id="measured")
    field = gr.Image(
        label="what the middle of the last map sees, before any training", format="png", elem_id="field-map"
    )
    measuring.click(_measured, controls, measured, concurrency_limit=1)
    looking.click(_receptive_field, controls, [field, measured], concurrency_limit=1)
    changes, quietly = (
        [control.change for control in controls],
        {"show_progress": "hidden", "trigger_mode": "always_last"},
    )
    gr.on(changes, _sketched, controls, [found, text], **quietly)
    gr.on(changes, _predicted, controls, predicted, concurrency_limit=1, **quietly)
    first = _sketched(*(control.value for control in controls))
    found.value, text.value = first


def _usual_parts() -> list[tuple[Role, str]]:
    return [("stem", "overlap_conv"), ("downsample", "overlap_conv"), ("norm", "layer"), ("position", "none")]


def _stage_controls(number: int) -> list[Any]:
    with gr.Row():
        return [
            gr.Dropdown(list(parts("mixer")), value="large_kernel", label=f"stage {number + 1}: token mixer"),
            gr.Dropdown(list(parts("channel_mixer")), value="conv_glu", label="channel mixer"),
            gr.Number(label="width", value=DIMS[number], precision=0),
            gr.Number(label="blocks (0: no such stage)", value=DEPTHS[number], precision=0),
        ]


def fields_of(*values: Any) -> tuple[dict[str, Any], int]:
    """The config that the controls stand for, in their order, and the side of images. Raises ValueError."""
    size, classes, patch, stem, downsample, norm, position, *rest = values
    stages = [stage for stage in (rest[start : start + 4] for start in range(0, len(rest), 4)) if stage[3]]
    for name, number, most in (
        ("image side", size, MOST["image side"]),
        ("classes", classes, MOST["classes"]),
        *(("width", stage[2], MOST["width"]) for stage in stages),
        *(("blocks", stage[3], MOST["blocks"]) for stage in stages),
    ):
        require(isinstance(number, int | float) and 1 <= number <= most, name, number, f"from 1 to {most}")
    if not stages:
        raise ValueError("blocks = 0 in every stage is not possible: allowed is at least one block somewhere")
    mixers, channel_mixers, dims, depths = (list(column) for column in zip(*stages, strict=True))
    return {
        "image_size": int(size),
        "num_classes": int(classes),
        "patch_size": int(patch),
        "dims": dims,
        "depths": depths,
        "stem": stem,
        "downsample": downsample,
        "mixer": mixers,
        "channel_mixer": channel_mixers,
        "norm": norm,
        "position": position,
    }, int(size)


def _sketched(*values: Any) -> tuple[str, str]:
    try:
        fields, size = fields_of(*values)
        found = sketch(fields, size)
    except ValueError as error:
        return str(message(error)), ""
    return str(drawing(found.rows) + _table(found)), found.yaml


def _table(found: Sketch) -> Markup:
    head = ("step", "parts", "map", "blocks", "parameters", "multiply-adds")
    rows = [
        (row.name, row.parts, " x ".join(map(str, row.shape)), str(row.blocks), count(row.parameters), count(row.macs))
        for row in found.rows
    ]
    rows.append(("all", "", "", "", count(found.parameters), count(found.macs)))
    lines = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    return element(
        "table", element("tr", *(element("th", name, scope="col") for name in head)), *lines, class_="stages"
    )


def _predicted(*values: Any) -> str:
    """The latency that the parts add up to here; parts that were never timed on this machine are timed now."""
    try:
        fields, size = fields_of(*values)
        if size > LARGEST_MEASURED:
            return ""
        table = CostTable()
        latency = table.latency_ms(PyramidConfig(**fields))
        table.save()
    except ValueError:  # the sketch beside it says why
        return ""
    return str(element("p", f"about {significant(latency)} ms for one image here, by what its parts take"))


def _measured(*values: Any) -> str:
    try:
        model, size = _built(*values)
        found = measure(model, size=size, throughput_batch=1, seconds=2.0)
    except ValueError as error:
        return str(message(error))
    told = (
        f"{significant(found.latency_ms)} ms for one image, {significant(found.memory_mb)} MiB at most, on "
        f"{found.threads} thread{'s' if found.threads > 1 else ''} of this machine's processor"
    )
    return str(element("p", told))


def _receptive_field(*values: Any) -> tuple[Image.Image | None, str]:
    try:
        model, size = _built(*values)
        images = torch.randn(FIELD_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
        return heat(receptive_field(model, images)), ""
    except ValueError as error:
        return None, str(message(error))


def _built(*values: Any) -> tuple[Backbone, int]:
    fields, size = fields_of(*values)
    if size > LARGEST_MEASURED:
        raise ValueError(f"image side = {size} is not possible: allowed is up to {LARGEST_MEASURED} to run it")
    torch.manual_seed(0)
    model = create_model("pyramid", **fields).eval()
    assert isinstance(model, Backbone)
    return model, size


def message(error: Exception) -> Markup:
    """What was wrong, where the answer would be."""
    return element("p", " ".join(str(error).split()), class_="message", role="alert")
