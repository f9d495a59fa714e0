import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ommatid.runs.alone import alone_in

HOLDER = """
import sys, time
from pathlib import Path
from ommatid.runs.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match=f"another process is at work in {folder}"), alone_in(folder):
            pass
        holder.send_signal(signal.SIGKILL)
    with alone_in(folder):
        assert list(folder.iterdir())
    assert not list(folder.iterdir())


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), alone_in(tmp_path):
        raise KeyError
    with alone_in(tmp_path):
        pass


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"), alone_in(tmp_path / "file"):
        pass
