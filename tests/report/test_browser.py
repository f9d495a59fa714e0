"""The pages in a real browser: sorting, drawn figures, nothing fetched, nothing wrong in the console."""

import shutil
import time

import pytest

from ommatid.report.bench import bench_page
from ommatid.report.compare import compare_page
from ommatid.report.evaluate import evaluate_page
from ommatid.report.formats import short_name

from .examples import HOSTILE, MACHINE, MODELS, bench_rows, compare_results, evaluate_result, failed_run, make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def open_page(browser, tmp_path):
    def open_page(html, width=1280, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(path.as_uri())
        figures = len(browser.find_elements(By.CSS_SELECTOR, ".plotly-graph-div"))
        WebDriverWait(browser, 20).until(lambda _: count(browser, ".plotly-graph-div .main-svg .xy") >= figures)
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []


def count(browser, selector):
    return len(browser.find_elements(By.CSS_SELECTOR, selector))


def texts(browser, selector):
    """What the elements say, read in one step: a figure that redraws itself replaces its elements at any time."""
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)"
    return browser.execute_script(script, selector)


def comes_to(expected, read, *arguments):
    """Whether ``read(*arguments)`` gives what is expected, at once or when a figure that redraws itself is done."""
    deadline = time.monotonic() + 10
    while (answer := read(*arguments)) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer == expected


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


def contrast(browser, selector):
    """The WCAG 2 contrast ratio between an element's text and the ground of the page."""
    script = "const style = getComputedStyle(document.querySelector(arguments[0])); return style[arguments[1]]"
    ink = browser.execute_script(script, selector, "fill" if "text" in selector else "color")
    ground = browser.execute_script(script, "body", "backgroundColor")
    lighter, darker = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
