"""Which blocks are linear, by the letters of InLine and SLAB."""

import pytest
import torch

from ommatid.models.attention_types import linear_blocks, name_windowed, require_whole_windows


def test_mixed_stages_start_with_linear_blocks() -> None:
    assert linear_blocks("IMS2", (2, 3, 1), "I") == [[True, True], [True, True, False], [False]]
    assert linear_blocks("SL", (1, 2), "L") == [[False], [True, True]]


@pytest.mark.parametrize("types", ["I", "ILS", "IMS", "IIIS", "IIS-1"])
def test_other_letters_are_refused(types: str) -> None:
    with pytest.raises(ValueError, match="attention_types"):
        linear_blocks(types, (2, 2, 2), "I")


def test_every_stage_must_be_whole_windows() -> None:
    require_whole_windows((56, 112), 2, [{14}, {7, 14}])
    for size in [(56, 100), (57, 112), (28, 56)]:
        with pytest.raises(ValueError, match="allowed is multiples of"):
            require_whole_windows(size, 2, [{14}, {7, 14}])


def test_only_marked_blocks_are_windowed() -> None:
    state = dict.fromkeys(["a.0.attn.qkv.weight", "a.0.attn.dwc.bias", "a.1.attn.qkv.weight"], torch.zeros(1))
    renamed = ["a.0.attn.mixer.qkv.weight", "a.0.attn.mixer.dwc.bias", "a.1.attn.qkv.weight"]
    assert list(name_windowed(state, "dwc.bias")) == renamed
