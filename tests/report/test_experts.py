import pytest

from ommatid.report.experts import experts_page

from .examples import HOSTILE, MACHINE, SETTINGS, evaluate_result
from .reading import check_accessible, check_alone, read, sections, table_cells


def layer(name, load, dropped=0.0):
    return {"name": name, "experts": len(load), "load": load, "balance": 0.9, "entropy": 0.5, "dropped": dropped}


def result():
    layers = [layer("stage 1, block 2", [0.5, 0.5]), layer(HOSTILE, [0.1, 0.2, 0.3, 0.4], dropped=0.25)]
    image = evaluate_result(2)["mistakes"][0]["image"]
    drawn = {"path": HOSTILE, "image": image, "layers": [{"name": row["name"], "image": image} for row in layers]}
    history = [{"epoch": epoch, "layers": {row["name"]: row for row in layers}} for epoch in (1, 2, 3)]
    return {
        "model": HOSTILE,
        "data": HOSTILE,
        "samples": 359,
        "layers": layers,
        "images": [drawn, drawn],
        "colours": ["#ff0000", "#00ff00", "#0000ff", "#777700"],
        "history": history,
        "machine": MACHINE,
        "settings": SETTINGS,
    }


def build(values):
    document = read(experts_page(values))
    check_alone(document)
    check_accessible(document)
    return sections(document)


def test_every_layer_has_its_row_and_its_pictures():
    parts = build(result())
    rows = table_cells(parts["Load"].find("table"))
    assert [row["Layer"] for row in rows] == ["stage 1, block 2", HOSTILE]
    assert rows[1]["Dropped"] == "25.0\u202f%"
    assert len(parts["Regions"].find_all("img")) == 6
    assert len(parts["Over training"].find_all("figure")) == 3


def test_what_there_is_not_is_said():
    parts = build(result() | {"images": [], "history": []})
    assert "No images are drawn" in parts["Regions"].text
    assert "kept no course" in parts["Over training"].text


def test_pictures_must_be_inside_the_page():
    values = result()
    values["images"][0]["image"] = "http://example.org/spy.png"
    with pytest.raises(ValueError, match="must be a data URI"):
        experts_page(values)
