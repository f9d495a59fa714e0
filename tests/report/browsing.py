"""What the tests ask of a page in a browser."""

import time


def count(browser, selector):
    return browser.execute_script("return document.querySelectorAll(arguments[0]).length", selector)


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
