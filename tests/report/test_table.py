import math

from ommatid.report.formats import significant
from ommatid.report.table import Column, sortable_table

from .examples import HOSTILE
from .reading import read, table_cells

COLUMNS = [Column("Name", "name"), Column("Time", "time", significant, best=min, detail="span"), Column("Note", "note")]


def test_cells_carry_text_and_the_number_to_sort_by():
    rows = [{"name": HOSTILE, "time": 10.04, "span": "9–11"}, {"name": "b", "time": math.nan, "note": "3"}]
    table = read(sortable_table(COLUMNS, rows, "A caption"))
    assert table_cells(table) == [
        {"Name": HOSTILE, "Time": "10.09–11", "Note": "–"},
        {"Name": "b", "Time": "–", "Note": "3"},
    ]
    times = [row.inside[1].attributes.get("data-value") for row in table.find("tbody").find_all("tr")]
    assert times == ["10.04", None]
    assert table.find("caption").text == "A caption"


def test_the_best_value_is_marked_and_level_ones_are_not():
    def marked(*times):
        table = read(sortable_table(COLUMNS, [{"name": "a", "time": time} for time in times], "Times"))
        return [row.inside[1].attributes["class"] == "number best" for row in table.find("tbody").find_all("tr")]

    assert marked(3.0, 2.0, None, 2.0) == [False, True, False, True]
    assert marked(2.0, 2.0) == [False, False]


def test_no_rows_make_an_empty_table():
    assert table_cells(read(sortable_table(COLUMNS, [], "Nothing"))) == []
