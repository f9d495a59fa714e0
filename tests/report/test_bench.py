import io
import math

from rich.console import Console

from ommatid.report.bench import bench_page, bench_table

from .examples import HOSTILE, MACHINE, bench_rows
from .reading import check_accessible, check_alone, read, sections, table_cells


def printed(rows):
    console = Console(file=io.StringIO(), width=220)
    console.print(bench_table(rows))
    return console.file.getvalue()


def build(rows):
    document = read(bench_page(rows, MACHINE))
    check_alone(document)
    check_accessible(document)
    return sections(document)


def test_page_shows_latency_and_ratio():
    parts = build(bench_rows())
    rows = {row["Model"]: row for row in table_cells(parts["Results"].find("table"))}
    assert rows["convnext_tiny"]["Latency (ms)"] == "35.534.4–38.3"
    assert rows["convnext_tiny"]["Ratio"] == "0.8000.780–0.830"
    assert rows["convnext_tiny"]["Against"] == "timm"
    assert rows["swin_tiny"]["Ratio"] == "–"
    assert [value.text for value in parts["Machine"].find_all("dd")] == [str(value) for value in MACHINE.values()]


def test_the_competitor_appears_only_where_one_was_measured():
    alone = [row | {"against": None} for row in bench_rows()]
    assert "Ratio" not in table_cells(build(alone)["Results"].find("table"))[0]
    assert "Ratio" not in printed(alone)
    assert "Ratio" in printed(bench_rows())


def test_terminal_table_shows_the_same_numbers():
    lines = printed(bench_rows()).splitlines()
    start = next(index for index, line in enumerate(lines) if "convnext_tiny" in line)
    assert all(text in lines[start] for text in ("35.5", "44.4", "0.800", "28.6\u202fM"))
    assert all(text in lines[start + 1] for text in ("34.4–38.3", "0.780–0.830"))


def test_settings_are_a_column_where_they_differ_and_said_once_where_they_do_not():
    rows = [row | {"batch": batch} for row, batch in zip(bench_rows(), (1, 8, 1, 1, 1, 1, 1), strict=True)]
    document = read(bench_page(rows, MACHINE))
    assert document.find("header").find("p").text == "7 measurements, threads 1, precision float32"
    assert [row["Batch"] for row in table_cells(document.find("table"))][:3] == ["1", "8", "1"]
    assert "Batch" in printed(rows)
    assert "batch 1, threads 1, precision float32" in printed(bench_rows())


def test_hostile_names_and_missing_numbers():
    row = bench_rows()[0] | {"model": "[bold]" + HOSTILE, "latency_ms": math.nan, "latency_p25": None, "macs": None}
    assert table_cells(build([row])["Results"].find("table"))[0]["Model"] == "[bold]" + HOSTILE
    assert "[bold]" in printed([row])


def test_no_rows():
    assert table_cells(build([])["Results"].find("table")) == []
