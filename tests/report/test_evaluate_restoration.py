import pytest
from PIL import Image

from ommatid.report.evaluate_restoration import evaluate_restoration_page

from .examples import HOSTILE, MACHINE, SETTINGS, data_uri
from .reading import check_accessible, check_alone, read, sections, table_cells


def picture(name, psnr, before):
    return {"path": name, "psnr": psnr, "ssim": 0.91, "baseline_psnr": before, "baseline_ssim": 0.85}


def result(**changes):
    rows = [picture("parrot.png", 31.5, 29.0), picture(HOSTILE, 27.25, 26.0)]
    image = data_uri(Image.linear_gradient("L").resize((16, 16)))
    shown = [row | {"before": image, "after": image, "original": image} for row in rows]
    return {
        "model": "hat",
        "data": "birds",
        "degrade": "bicubic x2",
        "samples": 2,
        "psnr": 29.375,
        "ssim": 0.91,
        "baseline_psnr": 27.5,
        "baseline_ssim": 0.85,
        "pictures": rows,
        "worst": shown[1:],
        "best": shown[:1],
        "machine": MACHINE,
        "settings": SETTINGS,
    } | changes


def build(result):
    document = read(evaluate_restoration_page(result))
    check_alone(document)
    check_accessible(document)
    return sections(document)


def test_numbers_and_pictures_are_on_the_page():
    parts = build(result())
    cards = [value.text for value in parts["Summary"].find_all("dd")]
    assert cards == ["29.38\u202fdB", "27.50\u202fdB", "0.9100", "0.8500", "2"]
    rows = table_cells(parts["Pictures"].find("table"))
    assert [row["Picture"] for row in rows] == ["parrot.png", HOSTILE]
    assert rows[0]["PSNR before"] == "29.00\u202fdB"
    assert len(parts["Restored worst"].find_all("img")) == len(parts["Restored best"].find_all("img")) == 3
    assert len(parts["Gain"].find_all("figure")) == 1


def test_few_pictures_are_all_among_the_worst():
    assert "Restored best" not in build(result(best=[]))


def test_a_picture_from_elsewhere_is_refused():
    bad = result()
    bad["worst"][0]["after"] = "https://example.org/cat.png"
    with pytest.raises(ValueError, match="must be a data URI"):
        evaluate_restoration_page(bad)
