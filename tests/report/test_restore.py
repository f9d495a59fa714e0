"""The page of restored pictures: what it says, what it shows, and how large it may get."""

import base64
import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from ommatid.data.picture_file import PictureFile
from ommatid.report.previews import DETAIL_SIDE, WHOLE_SIDE, views
from ommatid.report.restore import LISTED, restore_page

from .examples import HOSTILE, restore_result
from .reading import check_accessible, check_alone, read, sections, table_cells


def decoded(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def picture(height: int, width: int, channels: int = 3, depth: type = np.uint8) -> PictureFile:
    """Dark on the left, light on the right."""
    ramp = np.linspace(0, np.iinfo(depth).max, width).astype(depth)
    pixels = np.broadcast_to(ramp[:, None], (height, width, channels)).copy()
    if channels in (2, 4):
        pixels[..., -1] = np.iinfo(depth).max
    return PictureFile(pixels, "PNG")


def test_page_says_what_was_done() -> None:
    document = read(restore_page(restore_result()))
    check_alone(document)
    check_accessible(document)
    rows = table_cells(sections(document)["Pictures"].find("table"))
    assert [row["Before"] for row in rows] == ["30 × 20", "640 × 480", "30 × 20"]
    assert [row["After"] for row in rows] == ["60 × 40", "1280 × 960", "60 × 40"]
    assert rows[1]["Notes"] == "CMYK became RGB"
    assert sections(document)["Skipped"].find_all("li")[0].text == f"{HOSTILE}.png: {HOSTILE}"
    assert "undoes bicubic x2" in document.find("header").text


def test_every_view_has_its_slider_and_its_name() -> None:
    document = read(restore_page(restore_result()))
    figures = sections(document)["Before and after"].find_all("figure")
    assert len(figures) == 3
    for figure in figures:
        (slider,) = figure.find_all("input")
        assert slider.attributes["type"] == "range"
        assert slider.attributes["aria-label"]
        assert [image.attributes["class"] for image in figure.find_all("img")] == ["after", "before"]
    assert "1 more in the list below" in sections(document)["Before and after"].text


def test_without_pictures_to_show_and_without_any_skipped() -> None:
    result = restore_result()
    result["restored"] = [row | {"views": []} for row in result["restored"]]
    document = read(restore_page(result | {"skipped": [], "degrade": None}))
    check_accessible(document)
    assert "Skipped" not in sections(document)
    assert "No previews were kept" in sections(document)["Before and after"].text
    assert "learned from pairs" in document.find("header").text


def test_thousands_of_pictures_stay_a_page() -> None:
    rows = restore_result()["restored"][-1:] * 20_000
    html = restore_page(restore_result() | {"restored": rows})
    assert len(html) < 2_000_000
    assert f"and {20_000 - LISTED:,} more".replace(",", "\u202f") in html


def test_a_picture_that_is_none_is_refused() -> None:
    result = restore_result()
    result["restored"][0]["views"][0]["after"] = "https://example.org/a.png"
    with pytest.raises(ValueError, match="must be a data URI"):
        restore_page(result)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_small_picture_is_shown_as_a_whole(channels: int, depth: type) -> None:
    (view,) = views(picture(20, 30, channels, depth), picture(40, 60, channels, depth))
    before, after = decoded(view.before), decoded(view.after)
    assert before.shape == after.shape == (40, 60, 3)
    ramp = np.linspace(0, 255, 60)[:, None]
    assert np.abs(after - ramp).max() < 6
    assert np.abs(before - ramp).max() < 10


@pytest.mark.parametrize("size", [(3000, 40), (1200, 1800), (1, 5000)])
def test_a_large_picture_is_shown_smaller_and_its_middle_as_it_is(size: tuple[int, int]) -> None:
    height, width = size
    before = PictureFile(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), "PNG")
    after = PictureFile(before.pixels.repeat(2, 0).repeat(2, 1), "PNG")
    whole, middle = views(before, after)
    assert max(decoded(whole.before).shape) == max(decoded(whole.after).shape) == WHOLE_SIDE
    shown = decoded(middle.after)
    assert shown.shape == decoded(middle.before).shape
    assert shown.shape[:2] == (min(2 * height, DETAIL_SIDE), min(2 * width, DETAIL_SIDE))
    top, left = (max(0, (length - DETAIL_SIDE // 2) // 2) for length in size)
    expected = after.pixels[2 * top :, 2 * left :][: shown.shape[0], : shown.shape[1]].astype(int)
    assert np.abs(shown - expected).mean() < 25  # noise through a JPEG; another part would be 85 off


def test_pictures_are_shown_upright() -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    turned = PictureFile(picture(20, 30).pixels, "JPEG", exif=tags.tobytes())
    (view,) = views(turned, turned)
    assert decoded(view.after).shape == (30, 20, 3)


def test_transparency_is_shown_over_white() -> None:
    clear = PictureFile(np.zeros((20, 30, 4), np.uint8), "PNG")
    (view,) = views(clear, clear)
    assert (decoded(view.after) > 250).all()
