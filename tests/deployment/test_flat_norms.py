"""Norms over the channels of maps, for OpenVINO: the same answers, by the kernel that takes three axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ommatid.deployment.openvino import compiled_openvino, converted_openvino, read_by_openvino

pytest.importorskip("openvino", reason="the extra `export` is not installed")


class Normed(nn.Module):
    """Norms of maps (B, H, W, C), of tokens, and over two axes, which stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.tokens, self.rows = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm((6, 8))

    def forward(self, image: Tensor) -> Tensor:
        x = self.maps(image).relu() * image
        return self.rows(x + self.tokens(x.flatten(1, 2)).view(x.shape))


def ranks_of_norms(model: Any) -> list[int]:
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "MVN"]
    return sorted(node.input_value(0).get_partial_shape().rank.get_length() for node in nodes)


def program_of(model: nn.Module) -> ExportedProgram:
    free = ({0: Dim("batch", min=1, max=64), 1: Dim("height", min=2, max=64)},)
    return torch.export.export(model, (torch.rand(2, 4, 6, 8),), dynamic_shapes=free)


def test_only_norms_over_the_channels_of_maps_are_flattened() -> None:
    program = program_of(Normed().eval())
    assert ranks_of_norms(read_by_openvino(program)) == [3, 4, 4]
    assert ranks_of_norms(converted_openvino(program)) == [3, 3, 4]


def test_the_answers_stay_for_any_batch_and_height() -> None:
    model = Normed().eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    run = compiled_openvino(converted_openvino(program_of(model)), "f32")
    for shape in ((2, 4, 6, 8), (3, 9, 6, 8)):
        image = torch.rand(shape)
        torch.testing.assert_close(run(image), model(image), rtol=1e-4, atol=1e-5)
