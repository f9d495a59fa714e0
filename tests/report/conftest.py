"""A browser for the pages: none of them may fetch anything, or have anything go wrong in it, while a test looks."""

import pytest

from .browsing import count


@pytest.fixture
def open_page(browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(html, width=1280, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(path.as_uri())
        figures = count(browser, ".plotly-graph-div")
        WebDriverWait(browser, 20).until(lambda _: count(browser, ".plotly-graph-div .main-svg .xy") >= figures)
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
