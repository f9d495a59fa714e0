import json
import math

import pytest

from ommatid.report.metric import ACCURACY, CLASSIFIERS, PSNR, RESTORERS, SSIM, Yardstick


@pytest.mark.parametrize(
    ("metric", "value", "exact", "shown"),
    [
        (ACCURACY, 0.97123, "97.12%", "97.1\u202f%"),
        (PSNR, 31.058, "31.06 dB", "31.06\u202fdB"),
        (SSIM, 0.9, "0.9000", "0.9000"),
    ],
)
def test_values_are_written_in_their_unit(metric, value, exact, shown):
    assert metric.exact(value) == exact
    assert metric.show(value) == shown
    assert metric.show(math.nan) == metric.show(None) == "–"


def test_differences_and_deviations_in_words():
    assert (ACCURACY.gap(0.01), ACCURACY.gap(0.02), PSNR.gap(0.1)) == ("1 point", "2 points", "0.1 dB")
    assert (ACCURACY.spread(0.004), PSNR.spread(0.123)) == ("± 0.4", "± 0.12 dB")


def test_titles_and_axes():
    assert (ACCURACY.title, ACCURACY.axis, PSNR.axis, SSIM.axis) == ("Accuracy", "Accuracy", "PSNR, dB", "SSIM")


@pytest.mark.parametrize("yardstick", [CLASSIFIERS, RESTORERS])
def test_a_yardstick_survives_json(yardstick):
    assert Yardstick.from_dict(json.loads(json.dumps(yardstick.to_dict()))) == yardstick
