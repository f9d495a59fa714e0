from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ommatid.data import (
    DataError,
    Loader,
    PictureData,
    make_patch_loader,
    make_picture_loader,
    open_picture_evaluation,
    open_pictures,
)
from tests.data.conftest import write_image


@pytest.fixture(scope="module")
def photographs() -> PictureData:
    return open_pictures("photographs", degrade="bicubic x2 + noise 0-30")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(5):
        write_image(tmp_path / "trip" / f"{index}.png", seed=index, size=40)
    return tmp_path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for index in range(4):
        write_image(tmp_path / "input" / f"{index}.png", seed=index, size=20)
        write_image(tmp_path / "target" / f"{index}.jpg", seed=index, size=40)
    return tmp_path


def epoch_of(loader: Loader, epoch: int) -> list[tuple[Tensor, Tensor]]:
    loader.set_epoch(epoch)
    return list(loader)


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def patches(data: PictureData, **options: int) -> Loader:
    return make_patch_loader(data.train, 8, **({"batch": 100, "shuffle": True, "seed": 7, "drop_last": True} | options))


def test_an_epoch_is_many_patches_of_each_photograph(photographs: PictureData) -> None:
    assert len(photographs.train) == photographs.train.crops * 11 >= 1600
    batches = epoch_of(patches(photographs), 0)
    assert len(batches) == len(photographs.train) // 100
    assert {(a.shape, b.shape) for a, b in batches} == {((100, 3, 8, 8), (100, 3, 16, 16))}
    assert all(a.dtype == b.dtype == torch.float32 for a, b in batches)
    assert all(0 <= b.min() <= b.max() <= 1 for _, b in batches)


def test_workers_and_an_interruption_change_nothing_and_each_epoch_is_new(photographs: PictureData) -> None:
    through = patches(photographs)
    first, second = epoch_of(through, 0), epoch_of(through, 1)
    torch.manual_seed(999)
    assert same(epoch_of(patches(photographs, workers=2), 1), second)
    assert not same(first, second)
    assert not same(epoch_of(patches(photographs, seed=8), 0), first)


def test_the_ranks_together_see_what_one_process_sees(photographs: PictureData) -> None:
    alone = epoch_of(patches(photographs, batch=50), 0)
    ranks = [epoch_of(patches(photographs, batch=25, rank=rank, ranks=2), 0) for rank in range(2)]
    together = torch.stack([ranks[0][3][0], ranks[1][3][0]], dim=1).flatten(0, 1)
    assert torch.equal(together, alone[3][0])


def test_the_global_generator_is_left_alone(photographs: PictureData) -> None:
    before = torch.get_rng_state()
    next(iter(patches(photographs)))
    next(iter(make_picture_loader(photographs.val, 64, seed=0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_the_same_pictures_degraded_alike_whatever_the_seed(photographs: PictureData) -> None:
    wholes = [epoch_of(make_picture_loader(photographs.val, 128, seed=seed), seed) for seed in (0, 1)]
    assert same(*wholes)
    assert [tuple(clean.shape) for _, clean in wholes[0]] == [(1, 3, 128, 128)] * 3
    assert [tuple(degraded.shape) for degraded, _ in wholes[0]] == [(1, 3, 64, 64)] * 3


def test_whole_pictures_are_cut_to_a_multiple_of_the_scale(photographs: PictureData) -> None:
    chelsea = photographs.val.paths.index("photographs/chelsea")  # 451 x 300
    degraded, clean = photographs.val[chelsea]
    assert (degraded.shape, clean.shape) == ((3, 150, 225), (3, 300, 450))


def test_samples_are_a_sequence(photographs: PictureData) -> None:
    assert [clean.shape[0] for _, clean in photographs.val] == [3, 3, 3]
    assert torch.equal(photographs.val[-1][1], photographs.val[2][1])
    assert torch.equal(photographs.train[11][1], photographs.train[0][1])


def test_a_folder_is_split_by_the_seed_and_shares_no_picture(folder: Path) -> None:
    data = open_pictures(folder, degrade="noise 25")
    split = data.split()
    assert len(split["val"]) == 1
    assert sorted(split["train"] + split["val"]) == [f"trip/{index}.png" for index in range(5)]
    assert data.train.crops == 400
    assert len({open_pictures(folder, degrade="noise 25", seed=seed).split()["val"][0] for seed in range(9)}) > 1


def test_a_recorded_split_is_kept_when_pictures_are_added(folder: Path) -> None:
    data = open_pictures(folder, degrade="noise 25", seed=3)
    write_image(folder / "trip" / "new.png", size=40)
    again = open_pictures(folder, degrade="noise 25", split=data.split())
    assert again.split() == data.split()
    assert again.fingerprint() == data.fingerprint()
    assert open_pictures(folder, degrade="noise 26", split=data.split()).fingerprint() != data.fingerprint()


def test_a_folders_own_parts_are_respected(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("test", 3)):
        for index in range(count):
            write_image(tmp_path / part / f"{index}.png", seed=index, size=40)
    data = open_pictures(tmp_path, degrade="noise 25")
    assert data.split()["val"] == ["test/0.png", "test/1.png", "test/2.png"]
    assert open_picture_evaluation(tmp_path, degrade="noise 25").paths == data.split()["val"]


def test_an_evaluation_without_parts_is_on_everything(folder: Path) -> None:
    assert len(open_picture_evaluation(folder, degrade="noise 25")) == 5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_files_and_small_ones_are_named_and_stop_nothing(folder: Path) -> None:
    (folder / "empty.png").touch()
    torn = write_image(folder / "torn.png", size=64)
    torn.write_bytes(torn.read_bytes()[:2000])
    write_image(folder / "stamp.png", size=16)
    Image.new("RGB", (1, 500)).save(folder / "strip.png")
    data = open_pictures(folder, degrade="noise 25")
    reasons = dict(data.skipped)
    assert set(reasons) == {"empty.png", "torn.png", "stamp.png", "strip.png"}
    assert reasons["strip.png"] == "1 x 500 pixels; 32 along both sides are needed"
    assert "truncated" in reasons["torn.png"]


def test_pictures_smaller_than_a_patch_are_named_and_left_out(folder: Path) -> None:
    for index in range(3):
        write_image(folder / f"large{index}.png", seed=index, size=100)
    data = open_pictures(folder, degrade="bicubic x2")
    with pytest.warns(UserWarning, match="smaller than a patch of 96 x 96 pixels"):
        loader = make_patch_loader(data.train, 48, batch=4, shuffle=True, seed=0)
    assert all(path.startswith("trip/") for path, _ in data.skipped)
    assert {tuple(clean.shape) for _, clean in list(loader)[:20]} == {(4, 3, 96, 96)}
    make_patch_loader(data.train, 48, batch=4, shuffle=True, seed=0)
    assert len(data.skipped) == len(set(data.skipped))
    with pytest.warns(UserWarning, match="smaller"), pytest.raises(DataError, match="make them smaller"):
        make_patch_loader(data.train, 60, batch=4, shuffle=True, seed=0)


def test_any_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for mode, suffix in (("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png")):
        colours.convert(mode).save(tmp_path / f"{mode}.{suffix}")
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    data = open_pictures(tmp_path, degrade="noise 1")
    assert data.skipped == []
    for part in (data.train, data.val):
        assert {tuple(part.whole(index)[1].shape) for index in range(len(part.paths))} == {(3, 40, 40)}
    everything = open_picture_evaluation(tmp_path, degrade="noise 1")
    _, deep = everything[everything.paths.index("deep.png")]
    assert deep.unique().tolist() == pytest.approx([round(40_000 / 65_535 * 255) / 255])


def test_pairs_give_both_pictures_and_the_scale(pairs: Path) -> None:
    data = open_pictures(pairs)
    assert (data.scale, data.degradation, data.skipped) == (2, None, [])
    degraded, clean = data.val[0]
    assert (degraded.shape, clean.shape) == ((3, 20, 20), (3, 40, 40))
    degraded, clean = next(iter(make_patch_loader(data.train, 12, batch=5, shuffle=True, seed=0)))
    assert (degraded.shape, clean.shape) == ((5, 3, 12, 12), (5, 3, 24, 24))
    [(degraded, clean)] = list(make_picture_loader(data.val, 17, seed=0))
    assert (degraded.shape, clean.shape) == ((1, 3, 8, 8), (1, 3, 16, 16))


def test_pairs_with_parts(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for index in range(count):
            for side in ("input", "target"):
                write_image(tmp_path / part / side / "deep" / f"{index}.png", seed=index, size=40)
    data = open_pictures(tmp_path)
    assert (len(data.train.paths), data.val.paths, data.scale) == (
        3,
        ["val/target/deep/0.png", "val/target/deep/1.png"],
        1,
    )


def test_pairs_that_do_not_fit_are_named(pairs: Path) -> None:
    write_image(pairs / "input" / "lone.png", size=20)
    write_image(pairs / "target" / "widow.png", size=40)
    for name, before, after in (("odd", 21, 40), ("other", 40, 40)):
        write_image(pairs / "input" / f"{name}.png", size=before)
        write_image(pairs / "target" / f"{name}.png", size=after)
    (pairs / "input" / "empty.png").touch()
    write_image(pairs / "target" / "empty.png", size=40)
    data = open_pictures(pairs)
    reasons = dict(data.skipped)
    assert set(reasons) == {f"target/{name}.png" for name in ("widow", "odd", "other", "empty")} | {"input/lone.png"}
    assert reasons["target/odd.png"].startswith("40 x 40 pixels, its input 21 x 21")
    assert reasons["target/other.png"] == "1 times as large as its input; most are 2 times"
    assert reasons["target/empty.png"] == "its input: empty: 0 bytes"
    assert (data.scale, len(data.train.paths) + len(data.val.paths)) == (2, 4)


def test_a_file_damaged_later_is_replaced_and_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ommatid.data.read.MEMORY_BYTES", 0)
    data = open_pictures(folder, degrade="noise 25")
    assert not data.train.in_memory
    (folder / data.train.paths[0]).write_bytes(b"gone")
    with pytest.warns(UserWarning, match="skipped"):
        replaced = data.train.whole(0)[1]
    assert torch.equal(replaced, data.train.whole(1)[1])
    assert data.skipped == [(data.train.paths[0], "not an image")]


@pytest.mark.parametrize(
    ("degrade", "said"),
    [(None, "say what is done to them"), ("noise", "from 0 to 255"), ("bicubic x2 + bicubic x2", "more than one")],
)
def test_what_is_done_to_clean_pictures_has_to_be_said_well(folder: Path, degrade: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_pictures(folder, degrade=degrade)


def test_pairs_are_degraded_already(pairs: Path) -> None:
    with pytest.raises(DataError, match="pairs, degraded already"):
        open_pictures(pairs, degrade="noise 25")


def test_data_that_cannot_be_trained_on_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give photographs"):
        open_pictures(tmp_path / "nowhere", degrade="noise 25")
    with pytest.raises(DataError, match="holds nothing to train on"):
        open_pictures(tmp_path, degrade="noise 25")
    write_image(tmp_path / "only.png", size=40)
    with pytest.raises(DataError, match="one readable picture"):
        open_pictures(tmp_path, degrade="noise 25")
    write_image(tmp_path / "only.png", size=20)
    with pytest.raises(DataError, match=r"none of the pictures .* only.png: 20 x 20 pixels"):
        open_pictures(tmp_path, degrade="noise 25")
