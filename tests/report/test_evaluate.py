import math

import numpy as np
import pytest

from ommatid.report.confusion import confusion_array, row_shares
from ommatid.report.evaluate import evaluate_page

from .examples import HOSTILE, evaluate_result
from .reading import check_accessible, check_alone, read, sections, table_cells


def build(result):
    document = read(evaluate_page(result))
    check_alone(document)
    check_accessible(document)
    return sections(document)


@pytest.mark.parametrize("size", [2, 10, 100, 200])
def test_numbers_on_the_page(size):
    result = evaluate_result(size)
    parts = build(result)
    cards = dict(zip((e.text for e in parts["Summary"].find_all("dt")), parts["Summary"].find_all("dd"), strict=True))
    assert cards["Accuracy"].text == f"{100 * result['accuracy']:.1f}\u202f%"
    assert cards["Loss"].text == "0.251"
    rows = table_cells(parts["Per class"].find("table"))
    assert len(rows) == size
    worst = result["per_class"][1]
    assert rows[1]["Recall"] == f"{100 * worst['recall']:.1f}\u202f%"
    assert len(parts["Worst mistakes"].find_all("img")) == 8


def test_most_frequent_confusions_come_first():
    rows = table_cells(build(evaluate_result(10))["Confusion"].find("table"))
    assert rows[0] == {"True → predicted": "cat → dog", "Images": "21", "Of the true class": "18.1\u202f%"}
    assert rows[1]["True → predicted"] == "dog → cat"
    assert len(rows) == 15


def test_a_perfect_model_has_no_confusions_and_no_mistakes():
    result = evaluate_result(2) | {"confusion": [[5, 0], [0, 7]], "mistakes": [], "reliability": []}
    parts = build(result)
    assert not parts["Confusion"].find_all("table")
    assert "No mistakes" in parts["Worst mistakes"].text
    assert "No predictions" in parts["Calibration"].text


def test_hostile_and_numeric_names_stay_as_they_are():
    result = evaluate_result(3) | {"classes": [HOSTILE, "10", "9"], "model": HOSTILE, "data": HOSTILE}
    result["mistakes"][0] |= {"truth": HOSTILE, "prediction": HOSTILE, "path": HOSTILE}
    parts = build(result)
    assert HOSTILE in parts["Worst mistakes"].find("figcaption").text
    assert parts["Worst mistakes"].find("figcaption").attributes["title"] == HOSTILE


def test_missing_scores_are_dashes():
    result = evaluate_result(2) | {"accuracy": math.nan, "top5": None, "loss": math.nan}
    result["reliability"][0] |= {"accuracy": None, "count": 0}
    result["per_class"][0]["precision"] = math.nan
    parts = build(result)
    assert [value.text for value in parts["Summary"].find_all("dd")][:3] == ["–", "–", "–"]
    assert table_cells(parts["Per class"].find("table"))[0]["Precision"] == "–"


def test_a_picture_from_elsewhere_is_refused():
    result = evaluate_result(2)
    result["mistakes"][0]["image"] = "https://example.org/cat.png"
    with pytest.raises(ValueError, match="must be a data URI"):
        evaluate_page(result)


def test_a_matrix_that_does_not_fit_the_classes_is_refused():
    with pytest.raises(ValueError, match="expected 2 rows of 2 counts"):
        confusion_array([[1, 2, 3], [4, 5, 6]], ["a", "b"])


def test_row_shares_sum_to_one_where_there_are_images():
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares.tolist() == [[0.75, 0.25], [0, 0]]
