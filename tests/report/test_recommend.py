import math
import random

import pytest

from ommatid.report.metric import RESTORERS
from ommatid.report.recommend import accuracy_margin, by_model, pareto_front, recommend

from .examples import MODELS, compare_results, failed_run, make_run


def run(name, accuracy, latency=5.0, parameters=1_000_000, **other):
    return make_run(name, "family", accuracy, latency, 10.0, parameters, 1000) | other


def beaten(point, points):
    return any(
        other[0] <= point[0] and other[1] >= point[1] and (other[0] < point[0] or other[1] > point[1])
        for other in points
    )


@pytest.mark.parametrize("seed", range(30))
def test_pareto_front_is_what_comparing_every_pair_gives(seed):
    source = random.Random(seed)
    points = [(source.randint(1, 8), source.randint(1, 8) / 10) for _ in range(source.randint(0, 14))]
    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not beaten(point, points)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_pareto_front_leaves_out_what_was_not_measured():
    assert pareto_front([(math.nan, 0.99), (2.0, None), (3.0, 0.9), (1.0, math.nan)]) == [2]


def test_recommendation_names_the_right_models():
    assert recommend(compare_results()["runs"]) == [
        "Most accurate: swin_tiny, 97.8\u202f% at 41.0 ms per image, 113 MB.",
        "Fastest within 1 point of the best; best under 5 ms: shvit_s1, 97.1\u202f% at 4.21 ms per image, 25.3 MB.",
        "Smallest within 1 point of the best: fastvit_t8, 96.9\u202f% at 9.80 ms per image, 16.1 MB.",
        "Failed: maxvit_tiny (1 of 8 runs).",
    ]


def test_each_time_limit_is_won_by_the_most_accurate_model_under_it():
    sentences = recommend([run("slow", 0.95, 30.0), run("middle", 0.90, 8.0), run("fast", 0.80, 0.7)])
    assert [sentence.split(",")[0] for sentence in sentences] == [
        "Most accurate; fastest within 1 point of the best; smallest within 1 point of the best: slow",
        "Best under 1 ms: fast",
        "Best under 10 ms: middle",
    ]


def test_one_model_is_described_and_not_compared():
    assert recommend([run("only", 0.9)]) == [
        "Only one model was measured: only, 90.0\u202f% at 5.00 ms per image, 4.00 MB."
    ]


def test_level_models_are_both_named_and_the_faster_one_leads():
    first = recommend([run("slow", 0.9, 6.0), run("fast", 0.9, 3.0)])[0]
    assert first.startswith("Most accurate (level with slow)")
    assert ": fast, 90.0" in first


def test_nothing_measured_is_said_plainly():
    pending = run("later", 0.0) | {"status": "pending", "accuracy": None}
    assert recommend([]) == ["No model has been measured yet."]
    assert recommend([failed_run("a_b", "no memory"), pending]) == [
        "No model has been measured yet.",
        "Failed: a_b (1 of 2 runs).",
        "Still to run: 1 of 2.",
    ]


def test_a_diverged_run_is_never_recommended():
    sentences = recommend([run("good", 0.5), run("diverged", math.nan)])
    assert sentences[0].startswith("Only one model was measured: good")
    assert sentences[1] == "Finished without a usable accuracy: diverged."


def test_latency_may_be_missing():
    sentences = recommend([run("a", 0.5, latency_ms=None), run("b", 0.6, latency_ms=None)])
    assert sentences == ["Most accurate; smallest within 1 point of the best: b, 60.0\u202f%, 4.00 MB."]


def test_seeds_of_a_model_are_judged_by_their_mean():
    seeds = [
        run("a", accuracy, latency, seed=seed) for seed, (accuracy, latency) in enumerate([(0.90, 4.0), (0.94, 6.0)])
    ]
    entry = by_model(seeds)[0]
    assert entry["accuracy"] == pytest.approx(0.92)
    assert entry["latency_ms"] == pytest.approx(5.0)
    assert entry["accuracy_std"] == pytest.approx(0.04 / math.sqrt(2))
    assert "92.0\u202f% (± 2.8 over seeds)" in recommend(seeds)[0]


def test_by_model_keeps_the_order_of_the_runs():
    assert [entry["model"] for entry in by_model(compare_results()["runs"])] == [model[0] for model in MODELS]


def test_accuracy_margin_is_the_wilson_interval():
    scipy_stats = pytest.importorskip("scipy.stats")
    interval = scipy_stats.binomtest(776, 800).proportion_ci(0.95, method="wilson")
    assert accuracy_margin(776 / 800, 800) == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)
    assert accuracy_margin(1.0, 50) > 0.01


def test_restoration_is_recommended_by_psnr_and_megapixels():
    def restorer(name, psnr, latency, megapixels, parameters=1_000_000):
        row = run(name, 0.0, latency, parameters, throughput=megapixels)
        return {key: value for key, value in row.items() if not key.startswith("accuracy")} | {"psnr": psnr}

    rows = [
        restorer("large", 31.20, 90.0, 0.2, 9_000_000),
        restorer("small", 31.14, 9.0, 2.0),
        restorer("weak", 29.0, 3.0, 6.0),
    ]
    assert recommend(rows, RESTORERS) == [
        "Highest PSNR: large, 31.20\u202fdB at 0.200 megapixels per second, 36.0 MB.",
        "Fastest within 0.1 dB of the best; smallest within 0.1 dB of the best: small, 31.14\u202fdB at "
        "2.00 megapixels per second, 4.00 MB.",
    ]
