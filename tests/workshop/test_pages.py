"""The pages in a real browser, as a new user would try them, wrong files included."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from ommatid.data import MEAN, STD
from ommatid.models import create_model
from ommatid.models.weights import save
from ommatid.runs.trained import WeightFacts
from ommatid.workflows.serve import serve

pytest.importorskip("gradio", reason="gradio is not installed")


def served(run: Path | None) -> Iterator[str]:
    running = []
    serve(run, port=0, ready=lambda address, end: running.append((address, end)))
    ((address, end),) = running
    yield address
    end()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield from served(None)


@pytest.fixture(scope="module")
def trained_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    torch.manual_seed(0)
    model = create_model("pyramid", dims=(8, 16), depths=(1, 1), num_classes=2, image_size=32)
    weights = tmp_path_factory.mktemp("run") / "best.safetensors"
    save(model, weights, WeightFacts("pyramid", ("cat", "ship"), 32, MEAN, STD).to_header())
    yield from served(weights)


def waited(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, poll_frequency=0.2).until(lambda _: condition())


def text(browser, selector: str) -> str:
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent).join(' ')"
    return browser.execute_script(script, selector)


def type_into(browser, selector: str, value: str) -> None:
    from selenium.webdriver.common.keys import Keys

    box = waited(browser, lambda: browser.find_element("css selector", f"{selector} input"))
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(value, Keys.TAB)


def test_a_composition_is_drawn_counted_measured_and_written_down(browser, workshop: str) -> None:
    browser.get(workshop)
    waited(browser, lambda: "16 x 16 x 32" in text(browser, "#sketch svg"))
    assert "large_kernel" in text(browser, "#sketch table")
    type_into(browser, "#size", "96")
    waited(browser, lambda: "24 x 24 x 32" in text(browser, "#sketch svg"))
    waited(browser, lambda: "by what its parts take" in text(browser, "#predicted"))
    waited(browser, lambda: "model: pyramid" in text(browser, "#yaml"))
    browser.find_element("css selector", "button#measure").click()
    waited(browser, lambda: "ms for one image" in text(browser, "#measured"))
    browser.find_element("css selector", "button#field").click()
    waited(browser, lambda: browser.execute_script("return !!document.querySelector('#field-map img')?.naturalWidth"))
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith((workshop, "data:", "blob:")) for name in asked), asked


def test_a_dropped_picture_is_answered_and_a_bad_file_is_explained(browser, trained_page: str, tmp_path: Path) -> None:
    picture, note, bomb = tmp_path / "noise.png", tmp_path / "note.jpg", tmp_path / "bomb.png"
    Image.effect_noise((50, 40), 60).save(picture)
    note.write_text("no picture")
    Image.new("1", (9000, 9000)).save(bomb)
    for file, expected in ((note, "can't be used"), (bomb, "more than 40 million"), (picture, "%")):
        browser.get(trained_page)
        upload = waited(browser, lambda: browser.find_element("css selector", "#upload input[type=file]"))
        upload.send_keys(str(file))
        place = "#answer" if file == picture else "#message"
        waited(browser, lambda place=place, expected=expected: expected in text(browser, place))
    assert {"cat", "ship"} <= set(text(browser, "#answer").replace("%", " ").split())
    waited(browser, lambda: browser.execute_script("return !!document.querySelector('#influence img')?.naturalWidth"))


@pytest.mark.parametrize("wanted", ["/etc/passwd", str(Path(__file__).parents[2] / "pyproject.toml")])
def test_files_of_the_machine_are_out_of_reach(trained_page: str, wanted: str) -> None:
    for place in (f"gradio_api/file={wanted}", f"file={wanted}", f"gradio_api/file=../../../../..{wanted}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(trained_page + place, timeout=20)
        assert refused.value.code in (403, 404)


def test_a_taken_port_and_a_missing_run_are_refused_in_one_line(workshop: str, tmp_path: Path) -> None:
    port = int(workshop.rstrip("/").rpartition(":")[2])
    with pytest.raises(ValueError, match="--port 0"):
        serve(port=port)
    with pytest.raises(ValueError, match="no run"):
        serve(tmp_path / "nothing", port=0)
