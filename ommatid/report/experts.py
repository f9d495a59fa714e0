"""The page of a model with experts: who works how much, where on the images, and how that came about."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ommatid.report.figure import PALETTE, figure, figures, legend, new_figure, plot_text
from ommatid.report.formats import fixed, percent, whole
from ommatid.report.page import Section, element, facts, page
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]
LIGHT_TO_DARK = ((0, "rgba(47,125,225,0.04)"), (1, "rgba(47,125,225,1)"))


def experts_page(result: Row) -> str:
    """The self-contained HTML page of `workflows.experts`.

    Raises ValueError where an image is not a data URI.
    """
    layers = result["layers"]
    headline = {
        "Layers with experts": whole(len(layers)),
        "Experts in a layer": whole(max(layer["experts"] for layer in layers)),
        "Dropped": percent(sum(layer["dropped"] for layer in layers) / len(layers)),
        "Least balance": fixed(min(layer["balance"] for layer in layers)),
        "Images": whole(result["samples"]),
    }
    sections = [
        Section("Summary", [facts(headline, class_="cards")]),
        Section("Load", [load_figure(layers), _table(layers)]),
        Section("Regions", _regions(result)),
        Section("Over training", [_history(result["history"])]),
        Section("Machine", [facts(result["machine"])]),
        Section("Settings", [facts(result["settings"])]),
    ]
    return page(f"Experts of {result['model']}", str(result["data"]), sections)


def load_figure(layers: Sequence[Row]) -> Markup:
    """Share of a layer's work by expert, as a heat map: 1 is an equal share."""
    most = max(layer["experts"] for layer in layers)
    relative = [[share * layer["experts"] for share in layer["load"]] for layer in layers]
    padded = [row + [None] * (most - len(row)) for row in relative]
    numbered = most * len(layers) <= 200
    plot = new_figure("Expert", "")
    plot.add_heatmap(
        z=padded,
        x=[str(index + 1) for index in range(most)],
        y=[plot_text(layer["name"]) for layer in layers],
        zmin=0,
        zmax=max(2.0, max(max(row) for row in relative)),
        colorscale=LIGHT_TO_DARK,
        showscale=False,
        xgap=1,
        ygap=1,
        texttemplate="%{z:.2f}" if numbered else None,
        hovertemplate="%{y}<br>expert %{x}: %{z:.2f} of an equal share<extra></extra>",
    )
    plot.update_xaxes(type="category", showgrid=False)
    plot.update_yaxes(type="category", showgrid=False, autorange="reversed")
    note = "How much of a layer's work each expert does; 1 is an equal share."
    return figure(plot, "Load by expert", note, height=110 + 34 * len(layers), min_width=120 + 34 * most)


def _table(layers: Sequence[Row]) -> Markup:
    columns = [
        Column("Layer", "name"),
        Column("Experts", "experts", whole),
        Column("Balance", "balance", fixed, best=max),
        Column("Routing entropy", "entropy", fixed),
        Column("Dropped", "dropped", percent, best=min),
    ]
    caption = (
        "Balance is the entropy of the load, 1 where all experts work alike; routing entropy that of a token's own "
        "scores, 1 where its router has no preference"
    )
    return sortable_table(columns, layers, caption)


def _regions(result: Row) -> list[Markup]:
    images = [image for image in result["images"] if image["layers"]]
    if not images:
        return [
            element("p", "No images are drawn: the experts choose no regions, or none were asked for.", class_="note")
        ]
    names = {f"expert {index + 1}": colour for index, colour in enumerate(result["colours"])}
    note = element(
        "p", "The expert that counts most for each region, by layer; what no expert worked on is grey.", class_="note"
    )
    return [note, legend(names), *(_image(image) for image in images)]


def _image(image: Row) -> Markup:
    pictures = [("image", image["image"]), *((layer["name"], layer["image"]) for layer in image["layers"])]
    for _, uri in pictures:
        if not uri.startswith("data:image/"):
            raise ValueError(f"images: the picture of {image['path']} must be a data URI (data:image/...)")
    parts = (
        element(
            "figure",
            element("img", src=uri, alt=f"{image['path']}, {name}", loading="lazy"),
            element("figcaption", name, title=image["path"]),
        )
        for name, uri in pictures
    )
    return element("div", *parts, class_="gallery")


def _history(rows: Sequence[Row]) -> Markup:
    if len(rows) < 2:
        return element("p", "The training kept no course of it: runs of two epochs or more do.", class_="note")
    return figures(
        _course(
            rows, "balance", "Balance", "Entropy of the load on validation images; 1 where all experts work alike."
        ),
        _course(rows, "entropy", "Routing entropy", "Of a token's own scores; 1 where the router has no preference."),
        _course(rows, "dropped", "Dropped", "Share of the work asked for that found no room."),
    )


def _course(rows: Sequence[Row], key: str, title: str, note: str) -> Markup:
    plot = new_figure("Epoch", title)
    for index, name in enumerate(rows[-1]["layers"]):
        plot.add_scatter(
            x=[row["epoch"] for row in rows],
            y=[row["layers"].get(name, {}).get(key) for row in rows],
            name=plot_text(name),
            mode="lines+markers",
            line={"color": PALETTE[index % len(PALETTE)], "width": 2},
            hovertemplate=f"{plot_text(name)}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
        )
    return figure(plot, f"{title} over training", note)
