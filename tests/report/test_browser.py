"""The pages in a real browser: sorting, drawn figures, nothing fetched, nothing wrong in the console."""

import pytest

from ommatid.report.bench import bench_page
from ommatid.report.compare import compare_page
from ommatid.report.evaluate import evaluate_page
from ommatid.report.formats import short_name

from .browsing import comes_to, contrast, count, texts
from .examples import HOSTILE, MACHINE, MODELS, bench_rows, compare_results, evaluate_result, failed_run, make_run

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait


def column(browser, index):
    cells = browser.find_elements(By.CSS_SELECTOR, f"table tbody tr > :nth-child({index})")
    return [cell.text.split("\n")[0] for cell in cells]


def test_comparison_draws_every_point_and_line(open_page):
    browser = open_page(compare_page(compare_results()))
    assert comes_to(len(MODELS), count, browser, "#figure-accuracy-against-latency .point")
    assert comes_to(len(MODELS), count, browser, "#figure-accuracy-against-parameters .point")
    assert comes_to(len(MODELS), count, browser, "#figure-validation-loss .js-line")


def test_a_click_on_a_header_sorts_by_number_and_a_second_one_turns_it_round(open_page):
    browser = open_page(compare_page(compare_results()))
    names = [model[0] for model in MODELS]
    assert column(browser, 1) == [*names, "maxvit_tiny"]
    header = browser.find_element(By.XPATH, "//th/button[text()='Latency (ms)']")
    header.click()
    fastest_first = [model[0] for model in sorted(MODELS, key=lambda model: model[3])]
    assert column(browser, 1) == [*fastest_first, "maxvit_tiny"]
    assert header.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    header.click()
    assert column(browser, 1) == [*fastest_first[::-1], "maxvit_tiny"]


def test_the_keyboard_sorts_too_and_better_comes_first(open_page):
    browser = open_page(compare_page(compare_results()))
    browser.find_element(By.XPATH, "//th/button[text()='Accuracy']").send_keys(Keys.ENTER)
    best_first = [model[0] for model in sorted(MODELS, key=lambda model: -model[2])]
    assert column(browser, 1) == [*best_first, "maxvit_tiny"]
    browser.find_element(By.XPATH, "//th/button[text()='Model']").send_keys(Keys.SPACE)
    assert column(browser, 1) == sorted([*best_first, "maxvit_tiny"])


def test_names_are_shown_as_they_are(open_page):
    runs = [make_run(HOSTILE, HOSTILE, *MODELS[0][2:]), make_run(*MODELS[3]), failed_run(HOSTILE, HOSTILE)]
    browser = open_page(compare_page(compare_results(runs)))
    labels = "#figure-accuracy-against-latency .textpoint text"
    assert comes_to([short_name(HOSTILE), "shvit_s1"], texts, browser, labels)
    assert HOSTILE in column(browser, 1)


@pytest.mark.parametrize("runs", [[], [make_run(*MODELS[0])], [failed_run("a_b", "no")]], ids=["none", "one", "failed"])
def test_small_comparisons_open_without_errors(open_page, runs):
    assert len(column(open_page(compare_page(compare_results(runs))), 1)) == len(runs)


def labelled_cells(browser):
    return sum(text != "" for text in texts(browser, "#figure-confusion-matrix .heatmap-label"))


@pytest.mark.parametrize("size", [2, 10, 200])
def test_evaluation_draws_the_matrix(open_page, size):
    browser = open_page(evaluate_page(evaluate_result(size)))
    filled = sum(value > 0 for row in evaluate_result(size)["confusion"] for value in row)
    assert comes_to(1, count, browser, "#figure-confusion-matrix .hm image")
    assert comes_to(filled if size <= 20 else 0, labelled_cells, browser)
    assert comes_to(10, count, browser, "#figure-reliability .point")


def test_benchmark_draws_both_sides(open_page):
    rows = bench_rows()
    browser = open_page(bench_page(rows, MACHINE))
    bars = len(rows) + sum(bool(row["against"]) for row in rows)
    assert comes_to(bars, count, browser, "#figure-median-latency .scatterlayer .point")


@pytest.mark.parametrize("width", [390, 1100, 1280])
@pytest.mark.parametrize("make", [lambda: compare_page(compare_results()), lambda: evaluate_page(evaluate_result(10))])
def test_figures_fit_their_boxes_also_when_those_change(open_page, make, width):
    browser = open_page(make(), width)
    boxes = "[...document.querySelectorAll('.plot')].filter(box => !box.hasAttribute('tabindex'))"
    wide = f"return {boxes}.filter(box => box.scrollWidth > box.clientWidth).length"
    assert browser.execute_script(f"return {boxes}.length") > 1
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(wide) == 0)
    browser.execute_script("document.body.style.maxWidth = '20rem'")
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(wide) == 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("make", [lambda: compare_page(compare_results()), lambda: evaluate_page(evaluate_result(10))])
def test_page_fits_the_screen_and_its_text_stands_out(open_page, make, width, scheme):
    browser = open_page(make(), width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in ("h1", "td", ".note, figcaption", ".xtick text"):
        assert contrast(browser, selector) >= 4.5, selector
