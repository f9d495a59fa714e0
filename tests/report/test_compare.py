import csv
import io
import json
import math

import pytest

from ommatid.report.compare import compare_csv, compare_page
from ommatid.report.metric import RESTORERS
from ommatid.report.recommend import recommend

from .examples import HOSTILE, MODELS, compare_results, failed_run, make_run
from .reading import check_accessible, check_alone, read, sections, table_cells


def build(results):
    document = read(compare_page(results))
    check_alone(document)
    check_accessible(document)
    return sections(document)


def test_table_shows_what_was_measured():
    parts = build(compare_results())
    rows = {row["Model"]: row for row in table_cells(parts["Results"].find("table"))}
    assert list(rows) == [*(model[0] for model in MODELS), "maxvit_tinyfailed"]
    assert rows["shvit_s1"] == {
        "Model": "shvit_s1",
        "Accuracy": "97.1\u202f%",
        "Top 5": "99.1\u202f%",
        "Latency (ms)": "4.214.08–4.46",
        "Images per second": "428",
        "Memory (MB)": "96.0",
        "Size (MB)": "25.3",
        "Parameters": "6.33\u202fM",
        "MACs": "241\u202fM",
        "Training": "2 min 6 s",
        "Family": "shvit",
        "Run": "files",
    }
    assert rows["maxvit_tinyfailed"]["Accuracy"] == "–"
    assert "image_size 225 is not a multiple of 32" in parts["Results"].find("pre").text


def test_every_part_of_the_results_is_on_the_page():
    results = compare_results()
    parts = build(results)
    assert [sentence.text for sentence in parts["Recommendation"].find("div").find_all("p")] == recommend(
        results["runs"]
    )
    assert "± 1.0 points" in parts["Recommendation"].text
    assert parts["Run it again"].find("code").text == results["command"]
    assert "rose/broken.jpg: truncated file" in parts["Data"].text
    assert [item.text for item in parts["Machine"].find_all("dt")] == list(results["machine"])
    assert [item.text for item in parts["Settings"].find_all("dd")] == [
        "12",
        "64",
        "0.001",
        "adamw",
        '["flip", "crop"]',
    ]
    assert len(parts["Accuracy against cost"].find_all("figure")) == 4
    assert len(parts["Learning curves"].find_all("figure")) == 3


def test_run_links_stay_beside_the_page():
    runs = [make_run(*MODELS[0]) | {"run": "runs/a #1?/"}, make_run(*MODELS[1]) | {"run": "javascript:alert(1)"}]
    links = build(compare_results(runs))["Results"].find_all("a")
    assert [link.attributes["href"] for link in links] == ["runs/a%20%231%3F/", "javascript%3Aalert%281%29"]


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [make_run(*MODELS[0])],
        [failed_run("a_b", "out of memory"), failed_run("c_d", None)],
        [make_run(*MODELS[0]) | {"accuracy": math.nan, "curve": []}],
        [make_run(*MODELS[0]) | {"status": "pending", "accuracy": None, "curve": []}],
    ],
    ids=["none", "one", "all failed", "diverged", "pending"],
)
def test_page_stands_with_little_to_show(runs):
    parts = build(compare_results(runs))
    assert len(table_cells(parts["Results"].find("table"))) == len(runs)
    assert ("Accuracy against cost" in parts) == (runs == [make_run(*MODELS[0])])


def test_nan_never_reaches_the_figures_as_invalid_json():
    curve = make_run(*MODELS[0])["curve"]
    curve[3]["val_loss"] = math.nan
    page = compare_page(compare_results([make_run(*MODELS[0]) | {"curve": curve, "memory_mb": math.nan}]))
    assert len(sections(read(page))["Accuracy against cost"].find_all("figure")) == 3
    assert "NaN" not in page[page.rindex("<main") :]


def test_hostile_names_stay_text():
    results = compare_results([make_run(HOSTILE, HOSTILE, *MODELS[0][2:]), failed_run(HOSTILE, HOSTILE)])
    results |= {"title": HOSTILE, "command": HOSTILE, "machine": {HOSTILE: HOSTILE}, "settings": {"x": HOSTILE}}
    results["data"] |= {"classes": [HOSTILE], "skipped": [{"path": HOSTILE, "reason": HOSTILE}]}
    parts = build(results)
    assert table_cells(parts["Results"].find("table"))[0]["Model"] == HOSTILE
    assert parts["Run it again"].find("code").text == HOSTILE
    assert not any("alert(1)</script" in part.text for part in parts["Learning curves"].find_all("script"))


def test_many_models_share_colours_by_family():
    runs = [
        make_run(f"{family}_{i}", family, 0.5 + i / 100, 1 + i, 9.0, 1000, 1) for i in range(9) for family in ("a", "b")
    ]
    legend = build(compare_results(runs))["Accuracy against cost"].find("ul")
    assert [item.text for item in legend.find_all("li")] == ["a", "b"]


def test_seeds_are_shown_where_there_are_several():
    runs = [make_run(*MODELS[0]) | {"seed": seed, "accuracy_std": 0.004} for seed in (1, 2)]
    rows = table_cells(build(compare_results(runs))["Results"].find("table"))
    assert [row["Seed"] for row in rows] == ["1", "2"]
    assert rows[0]["Accuracy"] == "97.8\u202f%± 0.4\u202f%"


def test_csv_has_one_row_per_run_and_reads_back():
    results = compare_results()
    results["runs"][-1]["error"] = 'two\nlines, "quoted"'
    rows = list(csv.DictReader(io.StringIO(compare_csv(results))))
    assert [row["model"] for row in rows] == [run["model"] for run in results["runs"]]
    assert float(rows[3]["latency_p25_ms"]) == results["runs"][3]["latency_spread_ms"][0]
    assert float(rows[3]["accuracy"]) == results["runs"][3]["accuracy"]
    assert rows[-1]["error"] == 'two\nlines, "quoted"'
    assert rows[-1]["accuracy"] == rows[-1]["latency_p25_ms"] == ""


def test_page_is_the_same_after_a_trip_through_json():
    results = compare_results()
    assert compare_page(json.loads(json.dumps(results))) == compare_page(results)


def test_restoration_is_drawn_against_megapixels():
    runs = [
        make_run(*model)
        | {"accuracy": None, "psnr": 25 + 5 * model[2], "psnr_std": None, "ssim": model[2], "curve": []}
        for model in MODELS
    ]
    data = {"origin": "birds", "degrade": "bicubic x2", "train": 90, "val": 10, "skipped": []}
    results = compare_results(runs) | {"yardstick": RESTORERS.to_dict(), "data": data}
    parts = build(results)
    assert "bicubic x2" in parts["Data"].text
    row = table_cells(parts["Results"].find("table"))[0]
    assert (row["PSNR"], row["SSIM"], row["Megapixels per second"]) == ("29.89\u202fdB", "0.9780", "43.9")
    assert [figure.attributes["aria-label"] for figure in parts["PSNR against cost"].find_all("figure")] == [
        "PSNR against megapixels per second",
        "PSNR against memory",
        "PSNR against file size",
        "PSNR against parameters",
    ]
    assert "points" not in parts["Recommendation"].text
    assert next(csv.DictReader(io.StringIO(compare_csv(results))))["ssim"] == "0.978"
