"""Files that are whole or not there, and that others may read."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ommatid.runs.files import check_writable, replacing, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "first")
    with pytest.raises(TypeError), replacing(path) as draft:
        draft.write_bytes("not bytes")  # type: ignore[arg-type]
    assert path.read_text() == "first"
    write_text(path, "second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_weights_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "weights.safetensors") as draft:
        save_file({"weight": torch.zeros(1)}, draft)
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_where_no_file_can_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new.json")
    with pytest.raises(ValueError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        check_writable(tmp_path / "nowhere" / "new.json")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # a test that runs as root may write everywhere
    with pytest.raises(ValueError, match="read-only"):
        check_writable(tmp_path / "new.json")
