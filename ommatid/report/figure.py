"""A plotly figure as part of a page: quiet, responsive, in the page's own colours (see assets/page.css)."""

from collections.abc import Sequence
from html import escape
from itertools import cycle

import plotly.graph_objects as go
from markupsafe import Markup

from ommatid.report.page import element, slug

# Mid tones, told apart with every common kind of colour vision, readable on white and on black.
PALETTE = ("#2f7de1", "#d97706", "#12946b", "#d1495b", "#8b6ad6", "#a68a1d", "#1797ad", "#c25fa8", "#73849a", "#6b8e23")
NEUTRAL = "#8a929b"
BUTTONS = ("toImage", "zoom2d", "pan2d", "resetScale2d")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each different name, in order of appearance; past ten names they repeat."""
    return dict(zip(dict.fromkeys(names), cycle(PALETTE), strict=False))


def plot_text(text: object) -> str:
    """Text safe inside a figure, where plotly reads a little HTML."""
    return escape(str(text), quote=False)


def new_figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure with the pages' axes and margins."""
    plot = go.Figure()
    axis = {"gridcolor": NEUTRAL, "zeroline": False, "ticks": "", "automargin": True, "title": {"standoff": 8}}
    plot.update_layout(
        template="none",
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
        margin={"l": 8, "r": 12, "t": 24, "b": 8},
        showlegend=False,
        # A finger that moves across a figure scrolls the page; zooming is a button of the figure.
        dragmode=False,
    )
    plot.update_xaxes(title_text=x_title, **axis)
    plot.update_yaxes(title_text=y_title, **axis)
    return plot


def figure(plot: go.Figure, title: str, note: str = "", height: int = 340, min_width: int = 0) -> Markup:
    """The figure with its caption; `height` and `min_width` in pixels (below `min_width` it scrolls sideways)."""
    drawing = plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{slug(title)}",
        default_height=f"{height}px",
        default_width="100%",
        config={"displaylogo": False, "responsive": False, "displayModeBar": True, "modeBarButtons": [list(BUTTONS)]},
    )
    inner = element("div", Markup(drawing), style=f"min-width:{min_width}px")
    caption = element("figcaption", element("strong", title), note)
    scroll = element("div", inner, class_="plot", tabindex="0" if min_width else None)
    return element("figure", caption, scroll, aria_label=title)


def figures(*drawn: Markup | None) -> Markup:
    """Figures side by side where the page is wide enough."""
    return element("div", *drawn, class_="figures")


def legend(names: dict[str, str]) -> Markup:
    """Which colour is whose, once for several figures."""
    items = (element("li", element("i", style=f"background:{colour}"), name) for name, colour in names.items())
    return element("ul", *items, class_="legend", aria_label="Colours")
