"""The slider between before and after, in a real browser: by keyboard and by pointer, on all screens."""

import io

import numpy as np
import pytest
from PIL import Image

from ommatid.report.restore import restore_page

from .browsing import contrast
from .examples import data_uri, restore_result

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

RED, BLUE = (255, 0, 0), (0, 0, 255)  # of `restore_result`: before, after


def shares(browser) -> list[float]:
    """How much of each pair shows the picture before, seen on the screen."""
    found = []
    for pair in browser.find_elements(By.CSS_SELECTOR, ".before-after"):
        shot = np.asarray(Image.open(io.BytesIO(pair.screenshot_as_png)).convert("RGB")).astype(int)
        row = shot[len(shot) * 3 // 4]  # below the words in the corners
        red, blue = (np.abs(row - colour).sum(1) < 60 for colour in (RED, BLUE))
        assert red.sum() + blue.sum() > 0.95 * len(row)
        assert not red[np.argmax(blue) :].any() or not blue.any(), "before is left, after is right"
        found.append(red.sum() / len(row))
    return found


def slider(browser, number=0):
    return browser.find_elements(By.CSS_SELECTOR, ".before-after input")[number]


def test_at_first_each_half_is_seen(open_page):
    assert shares(open_page(restore_page(restore_result()))) == pytest.approx([0.5] * 3, abs=0.02)


def test_arrow_keys_move_one_slider_alone(open_page):
    browser = open_page(restore_page(restore_result()))
    slider(browser, 1).send_keys(Keys.ARROW_RIGHT * 25)
    assert shares(browser) == pytest.approx([0.5, 0.75, 0.5], abs=0.02)
    slider(browser, 1).send_keys(Keys.HOME)
    assert shares(browser) == pytest.approx([0.5, 0, 0.5], abs=0.02)
    slider(browser, 1).send_keys(Keys.END)
    assert shares(browser) == pytest.approx([0.5, 1, 0.5], abs=0.02)


def test_the_tab_key_reaches_the_slider_and_shows_where_it_is(open_page):
    browser = open_page(restore_page(restore_result()))
    focused = "return document.activeElement.closest('.before-after') !== null"
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.execute_script(focused):
            break
    assert browser.execute_script(focused)
    outline = "return getComputedStyle(document.activeElement.closest('.before-after')).outlineStyle"
    assert browser.execute_script(outline) == "solid"


@pytest.mark.parametrize("where", [0.1, 0.9])
def test_the_seam_is_where_the_pointer_is(open_page, where):
    browser = open_page(restore_page(restore_result()))
    pair = slider(browser, 2)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", pair)
    ActionChains(browser).move_to_element_with_offset(
        pair, int((where - 0.5) * pair.size["width"]), 0
    ).click().perform()
    assert shares(browser)[2] == pytest.approx(where, abs=0.02)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen_and_its_text_stands_out(open_page, width, scheme):
    browser = open_page(restore_page(restore_result()), width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in ("h1", "td", "figcaption", ".note", "section li"):
        assert contrast(browser, selector) >= 4.5, selector


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (40, 40)])
def test_both_pictures_lie_on_one_another_whatever_their_shape(open_page, size):
    result = restore_result()
    views = [{"title": "whole", "before": data_uri(Image.new("RGB", size)), "after": data_uri(Image.new("RGB", size))}]
    result["restored"][0]["views"] = views
    browser = open_page(restore_page(result), 390)
    boxes = browser.execute_script(
        "return [...document.querySelector('.before-after').querySelectorAll('img')].map(image => {"
        " const box = image.getBoundingClientRect(); return [box.x, box.y, box.width, box.height] })"
    )
    assert boxes[0] == pytest.approx(boxes[1])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert boxes[0][3] <= 640
