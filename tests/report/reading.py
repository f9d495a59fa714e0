"""Reading a page back with Python's own parser, to judge what was written."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID_TAGS = {"img", "input", "link", "meta", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    inside: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def find_all(self, tag: str) -> list["Element"]:
        children = [part for part in self.inside if isinstance(part, Element)]
        return [found for child in children for found in ([child] if child.tag == tag else []) + child.find_all(tag)]

    def find(self, tag: str) -> "Element":
        return self.find_all(tag)[0]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in VOID_TAGS:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def read(html: str) -> Element:
    """The document as a tree; fails where elements are not properly nested."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, "an element is not closed"
    return reader.open[0]


def sections(document: Element) -> dict[str, Element]:
    """The sections of a page by their titles."""
    return {section.find("h2").text: section for section in document.find_all("section")}


def table_cells(table: Element) -> list[dict[str, str]]:
    """The rows of a table, as the texts under each header."""
    titles = [button.text for button in table.find("thead").find_all("button")]
    rows = [[part.text for part in row.inside] for row in table.find("tbody").find_all("tr")]
    assert all(len(row) == len(titles) for row in rows)
    return [dict(zip(titles, row, strict=True)) for row in rows]


def check_alone(document: Element) -> None:
    """Nothing in the page makes a browser fetch anything."""
    for element in every(document):
        for name in ("src", "srcset", "poster", "data", "action"):
            assert (element.attributes.get(name) or "data:").startswith("data:"), (element.tag, name)
        if element.tag == "link":
            assert element.attributes["href"] == "data:,"
        if element.tag == "style":
            assert "url(" not in element.text
            assert "@import" not in element.text
        assert element.tag not in ("iframe", "object", "embed", "base")
    policies = [meta for meta in document.find_all("meta") if meta.attributes.get("http-equiv")]
    assert policies[0].attributes["content"].startswith("default-src 'none'")


def check_accessible(document: Element) -> None:
    """Language, one main heading, unique ids, links that lead somewhere, names for pictures and regions."""
    assert document.find("html").attributes["lang"] == "en"
    assert len(document.find_all("h1")) == len(document.find_all("main")) == 1
    ids = [element.attributes["id"] for element in every(document) if element.attributes.get("id")]
    assert len(ids) == len(set(ids))
    for link in document.find_all("a"):
        target = link.attributes["href"]
        assert not target.startswith("#") or target[1:] in ids
    assert all(image.attributes["alt"] for image in document.find_all("img"))
    assert all(table.find("caption").text for table in document.find_all("table"))
    assert all(figure.find("figcaption").text for figure in document.find_all("figure"))


def every(element: Element) -> list[Element]:
    children = [part for part in element.inside if isinstance(part, Element)]
    return children + [below for child in children for below in every(child)]
