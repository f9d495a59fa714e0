"""A page that stands alone: one HTML file, light and dark, that asks no network for anything."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from ommatid.report.formats import plain

# The browser itself refuses anything that is not inside the file.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
VOID_TAGS = {"img", "input", "link", "meta"}


@dataclass(frozen=True)
class Section:
    """One titled part of a page; `parts` are Markup (kept) or text (escaped)."""

    title: str
    parts: Sequence[object]


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag attribute="value">children</tag>` with all text and attribute values escaped.

    Children and attributes that are None are left out; an attribute True has no value. Underscores in attribute
    names become hyphens and a trailing one is dropped (`class_`, `aria_label`).
    """
    opening = Markup("<") + Markup(tag)
    for name, value in attributes.items():
        if value is not None:
            name = name.rstrip("_").replace("_", "-")
            opening += Markup(f" {name}") if value is True else Markup(f' {name}="{{}}"').format(value)
    opening += Markup(">")
    if tag in VOID_TAGS:
        return opening
    inside = Markup("").join(escape(child) for child in children if child is not None)
    return opening + inside + Markup(f"</{tag}>")


def paragraphs(sentences: Iterable[object], class_: str | None = None) -> Markup:
    """One `<p>` per sentence."""
    return element("div", *(element("p", sentence) for sentence in sentences), class_=class_)


def facts(values: Mapping[str, Any], class_: str = "facts") -> Markup:
    """Names and values as a definition list; nested values are written as JSON."""
    pairs = (element("div", element("dt", name), element("dd", _readable(value))) for name, value in values.items())
    return element("dl", *pairs, class_=class_)


def collapsible(summary: str, *parts: object) -> Markup:
    """Parts behind a summary line that opens on click or Enter."""
    return element("details", element("summary", summary), *parts)


def code(text: str) -> Markup:
    """A command or message in its own scrollable block."""
    return element("pre", element("code", text), tabindex="0")


def bullets(items: Iterable[object]) -> Markup:
    """An unordered list."""
    return element("ul", *(element("li", item) for item in items))


def slug(text: str) -> str:
    """A name usable as an HTML id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole HTML document: header, contents, sections; plotly is included only where a figure needs it."""
    body = element("main", *(_section(section) for section in sections), id="content")
    contents = (element("a", section.title, href=f"#{slug(section.title)}") for section in sections)
    header = element(
        "header", element("h1", title), element("p", subtitle), element("nav", *contents, aria_label="Contents")
    )
    plotly = element("script", Markup(get_plotlyjs())) if "plotly-graph-div" in body else None
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", _asset("page.css")),
        plotly,
    )
    skip = element("a", "Skip to content", href="#content", class_="skip")
    document = element(
        "html", head, element("body", skip, header, body, element("script", _asset("page.js"))), lang="en"
    )
    return f"<!DOCTYPE html>\n{document}\n"


def _section(section: Section) -> Markup:
    anchor = slug(section.title)
    heading = element("h2", section.title, id=f"{anchor}-title")
    return element("section", heading, *section.parts, id=anchor, aria_labelledby=f"{anchor}-title")


def _asset(name: str) -> Markup:
    return Markup((files("ommatid.report") / "assets" / name).read_text(encoding="utf-8"))


def _readable(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list, tuple)) else plain(value)
    )
