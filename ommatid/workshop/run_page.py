"""A trained classifier on images that are dropped onto the page: its answer, what spoke for it, what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from ommatid.data import eval_transform
from ommatid.measuring.influence import class_influence, receptive_field
from ommatid.models.backbone import Backbone
from ommatid.runs.inference import probabilities
from ommatid.runs.trained import Trained
from ommatid.workshop.compose_page import message
from ommatid.workshop.pictures import MAX_MEGABYTES, channel_tiles, heat, uploaded

TOP = 5
CPU = torch.device("cpu")


def run_page(trained: Trained) -> None:
    """The upload and what it leads to, inside the `Blocks` that is open."""
    facts = trained.facts
    gr.Markdown(
        f"## {facts.name}\n{len(facts.classes)} classes, images of {facts.size} x {facts.size} pixels. Drop a picture: "
        f"up to {MAX_MEGABYTES} MB. It stays on this machine."
    )
    with gr.Row():
        file = gr.File(label="a picture", type="filepath", elem_id="upload")
        answer = gr.Label(label="what it sees", num_top_classes=TOP, elem_id="answer")
    told = gr.HTML(elem_id="message")
    with gr.Row():
        image = gr.Image(label="as the model gets it", format="png", elem_id="image")
        influence = gr.Image(label="what spoke for the first answer", format="png", elem_id="influence")
        field = gr.Image(label="what the middle of its last map looks at", format="png", elem_id="trained-field")
    with gr.Row():
        stages = [
            gr.Image(label=f"stage {number + 1}: the channels that vary most", format="png")
            for number in range(len(_channels(trained)))
        ]
    file.change(_looked(trained), file, [answer, told, image, influence, field, *stages], concurrency_limit=1)


def _channels(trained: Trained) -> tuple[int, ...]:
    return trained.model.channels if isinstance(trained.model, Backbone) else ()


def _looked(trained: Trained) -> Callable[[str | None], list[Any]]:
    """What a file leads to: answers, a message, pictures."""
    transform = eval_transform(trained.facts.size)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (trained.facts.mean, trained.facts.std))
    nothing = [None] * (3 + len(_channels(trained)))

    def look(path: str | None) -> list[Any]:
        if path is None:
            return [None, "", *nothing]
        try:
            image = transform(uploaded(path))[None]
        except ValueError as error:
            return [None, str(message(error)), *nothing]
        likelihoods = probabilities(trained.model, image, CPU)[0]
        answer = dict(zip(trained.facts.classes, likelihoods.tolist(), strict=True))
        shown = _shown(image[0] * std + mean)
        return [answer, "", shown, *_views(trained, image, int(likelihoods.argmax()), shown)]

    return look


def _views(trained: Trained, image: Tensor, best: int, shown: Image.Image) -> list[Any]:
    model = trained.model
    if not isinstance(model, Backbone):
        return [None, None]
    with torch.no_grad():
        features = model.features(image)
    tiles = [channel_tiles(stage[0]) for stage in features]
    return [heat(class_influence(model, image, best), shown), heat(receptive_field(model, image), shown), *tiles]


def _shown(image: Tensor) -> Image.Image:
    """(3, H, W), 0 to 1 -> a picture."""
    return Image.fromarray((255 * image.clamp(0, 1)).byte().permute(1, 2, 0).numpy())
