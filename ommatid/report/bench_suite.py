"""The races of `bench --suite` as a table in a text file and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from ommatid.report.formats import is_number, significant
from ommatid.report.page import Section, collapsible, element, facts, page, paragraphs
from ommatid.report.table import Column, sortable_table

Row = Mapping[str, Any]

NOTE = (
    "Ratios are timm's time divided by ours, medians over pairs of neighbouring runs, quartiles in brackets: above 1 "
    "ours is faster. Weights are equal, outputs are checked first; a way counts only where its outputs stay within 3 % "
    "of the largest magnitude.",
    "Eager: both in float32, timm's as it comes, ours deployed. Fastest against eager: ours by its fastest way, timm's "
    "eager float32. Fastest against fastest: both by whatever way is fastest for each.",
    "Share: what our fastest way in a precision reaches of the operations per second of a matrix product of 2048 x "
    "2048 x 2048 in the same run.",
)
RATIOS = {"eager": "Eager", "gain": "Fastest against eager", "against_best": "Fastest against fastest"}


def suite_table(rows: Sequence[Row], machine: Mapping[str, Any], command: str) -> str:
    """Markdown: the summary, then one table of ratios and one of every way's milliseconds."""
    measured = [row for row in rows if "error" not in row]
    lines = [
        "# Against timm, by every way",
        "",
        f"{', '.join(f'{name} {value}' for name, value in machine.items())}.  ",
        *(f"Made by `{line}`.  " for line in [command] if line),
        *(f"Clock: {clock} time.  " for clock in dict.fromkeys(row["limits"]["clock"] for row in measured)),
        "",
        *(f"{note}\n" for note in NOTE),
        *_markdown(_summaries(measured)),
        *_markdown([_flat(row) for row in measured]),
        *_markdown([way for row in measured for way in _ways(row)]),
        *(
            f"- {row['model']}, batch {row['batch']}, {row['threads']} threads: {row['error']}"
            for row in rows
            if "error" in row
        ),
    ]
    return "\n".join(lines) + "\n"


def suite_page(rows: Sequence[Row], machine: Mapping[str, Any], command: str) -> str:
    """The self-contained HTML page."""
    measured = [row for row in rows if "error" not in row]
    sections = [
        Section("What it says", [_table(_summaries(measured), "Geometric means over models"), paragraphs(NOTE)])
    ]
    sections.append(Section("Models", [_table([_flat(row) for row in measured], "Ratios of every model")]))
    ways = [collapsible(_title(row), _table(list(_ways(row)), f"Ways of {_title(row)}")) for row in measured]
    sections.append(Section("Every way", ways or ["Nothing was measured yet."]))
    failed = [f"{_title(row)}: {row['error']}" for row in rows if "error" in row]
    if failed:
        sections.append(Section("Not measured", [paragraphs(failed)]))
    sections.append(Section("Machine", [facts(machine), *(element("code", line) for line in [command] if line)]))
    return page("Against timm, by every way", f"{len(measured)} races", sections)


def _title(row: Row) -> str:
    return f"{row['model']}, batch {row['batch']}, {row['threads']} {'thread' if row['threads'] == 1 else 'threads'}"


def _summaries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The geometric means of each batch and number of threads."""
    settings = dict.fromkeys((row["batch"], row["threads"]) for row in rows)
    return [_summary(batch, threads, rows) for batch, threads in settings]


def _summary(batch: int, threads: int, rows: Sequence[Row]) -> dict[str, Any]:
    mine = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
    medians = {title: [row[name][0] for row in mine] for name, title in RATIOS.items()}
    return {
        "Batch": batch,
        "Threads": threads,
        "Models": len(mine),
        **{title: significant(geometric_mean(values)) for title, values in medians.items()},
        "Lowest eager": significant(min(medians["Eager"])),
    }


def _flat(row: Row) -> dict[str, Any]:
    cells = {"Model": row["model"], "Image": " x ".join(map(str, row["size"])), "Batch": row["batch"]}
    cells |= {"Threads": row["threads"], **{title: _spread(*row[name]) for name, title in RATIOS.items()}}
    for precision, faced in row["precisions"].items():
        best = " / ".join(dict.fromkeys(faced["best"].values()))
        cells[f"Best {precision}"] = f"{_spread(*faced['ratio'])} {best}" if faced["ratio"] else "–"
        cells[f"Share, {precision}"] = f"{faced['share']:.0%}" if faced["share"] else "–"
    return cells


def _ways(row: Row) -> Iterator[dict[str, Any]]:
    for faced in row["precisions"].values():
        for name, way in faced["ways"]["ours"].items():
            peer = faced["ways"]["timm"].get(name, {})
            yield {
                "Model": _title(row),
                "Way": name,
                "Ours, ms": _told(way),
                "timm, ms": _told(peer),
                "Error, ours": _error(way),
                "Error, timm": _error(peer),
            }


def _told(way: Row) -> str:
    return _spread(way["latency_ms"], way["p25"], way["p75"]) if way.get("latency_ms") else way.get("problem") or "–"


def _error(way: Row) -> str:
    return f"{way['error']:.0e}" if is_number(way.get("error")) else "–"


def _spread(median: float, p25: float, p75: float) -> str:
    return f"{significant(median)} ({significant(p25)}–{significant(p75)})"


def _table(rows: Sequence[Row], caption: str) -> object:
    return sortable_table([Column(name, name) for name in rows[0]], rows, caption) if rows else None


def _markdown(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    yield f"| {' | '.join(rows[0])} |"
    yield f"|{'---|' * len(rows[0])}"
    for row in rows:
        yield f"| {' | '.join(str(value).replace('|', '/') for value in row.values())} |"
    yield ""
