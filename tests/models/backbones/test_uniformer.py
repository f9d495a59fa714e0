import pytest
import torch

import ommatid
from ommatid.models import Backbone

TINY = {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "head_dim": 8, "num_classes": 5}


def split_block():
    """A block that attends along time and inside frames, with weights that let both speak."""
    model = ommatid.create_model("uniformer", variant="video", split=True, **TINY).eval()
    block = model.stages[3].blocks[0]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def test_split_attention_is_along_time_and_then_inside_frames():
    block, x = split_block(), torch.randn(2, 3, 2, 4, 24)
    time, norm, space = block.token.inner.time, block.token.inner.norm, block.token.inner.space
    along_time = x.clone()
    for row in range(2):
        for column in range(4):
            along_time[:, :, row, column] += time.inner.mixer(time.norm(x[:, :, row, column]))
    inside_frames = torch.stack([space.mixer(norm(frame)) for frame in along_time.unbind(1)], dim=1)
    torch.testing.assert_close(block.token(x), x + inside_frames)


def test_attention_along_time_starts_without_a_say():
    model = ommatid.create_model("uniformer", variant="video", split=True, **TINY).eval()
    video = torch.randn(1, 3, 4, 32, 32)
    before = model(video)
    for name, parameter in model.named_parameters():
        if ".time.norm." in name:
            torch.nn.init.normal_(parameter)
    torch.testing.assert_close(model(video), before)


@pytest.mark.parametrize("time_kernel", [1, 3])
def test_videos_halve_their_frames_once(time_kernel):
    model = ommatid.create_model("uniformer", variant="video", time_kernel=time_kernel, **TINY).eval()
    shapes = [tuple(stage.shape) for stage in model.features(torch.randn(1, 3, 5, 70, 64))]
    assert shapes == [(1, 8, 3, 17, 16), (1, 12, 3, 8, 8), (1, 16, 3, 4, 4), (1, 24, 3, 2, 2)]


def test_video_models_are_saved_and_loaded_as_such(tmp_path):
    model = ommatid.create_model("uniformer", variant="video", split=True, **TINY).eval()
    ommatid.models.save(model, tmp_path / "video.safetensors")
    loaded = ommatid.load(tmp_path / "video.safetensors")
    video = torch.randn(1, 3, 2, 32, 32)
    assert not isinstance(loaded, Backbone)
    assert torch.equal(loaded(video), model(video))
    with pytest.raises(ValueError, match="frames"):
        loaded(video[:, :, 0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"split": True}, "split = True"),
        ({"variant": "video", "conv_stem": True}, "conv_stem = True"),
        ({"variant": "video", "layer_scale": 0.1}, "layer_scale = 0.1"),
        ({"head_dim": 17}, "at most 16"),
    ],
)
def test_impossible_configs_say_what_is_allowed(overrides, message):
    with pytest.raises(ValueError, match=message):
        ommatid.create_model("uniformer", **TINY | overrides)
