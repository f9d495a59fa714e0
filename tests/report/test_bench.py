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
    line = next(line for line in printed(bench_rows()).splitlines() if "convnext_tiny" in line)
    assert "35.5 (34.4–38.3)" in line
    assert "0.800 (0.780–0.830)" in line
    assert "28.6\u202fM" in line


def test_hostile_names_and_missing_numbers():
    row = bench_rows()[0] | {"model": "[bold]" + HOSTILE, "latency_ms": math.nan, "latency_p25": None, "macs": None}
    assert table_cells(build([row])["Results"].find("table"))[0]["Model"] == "[bold]" + HOSTILE
    assert "[bold]" in printed([row])


def test_no_rows():
    assert table_cells(build([])["Results"].find("table")) == []
