from markupsafe import Markup

from ommatid.report.page import Section, bullets, code, collapsible, element, facts, page, paragraphs

from .examples import HOSTILE
from .reading import check_accessible, check_alone, read, sections


def test_element_escapes_text_and_attributes():
    html = element("a", HOSTILE, Markup("<i>kept</i>"), None, href='" onclick="alert(1)', class_=None)
    link = read(html).find("a")
    assert link.text == HOSTILE + "kept"
    assert link.attributes == {"href": '" onclick="alert(1)'}


def test_every_helper_writes_hostile_text_as_text():
    parts = [paragraphs([HOSTILE]), facts({HOSTILE: HOSTILE}), collapsible(HOSTILE, bullets([HOSTILE])), code(HOSTILE)]
    document = read(page(HOSTILE, HOSTILE, [Section("Part", parts)]))
    check_alone(document)
    check_accessible(document)
    assert document.find("title").text == document.find("h1").text == HOSTILE
    assert len(document.find_all("script")) == 1
    assert [element.text for name in ("dt", "dd", "summary", "li", "pre") for element in document.find_all(name)] == [
        HOSTILE
    ] * 5


def test_facts_write_nested_values_and_missing_ones():
    values = read(facts({"augmentation": ["flip", {"crop": 0.5}], "seed": None, "amp": False})).find_all("dd")
    assert [value.text for value in values] == ['["flip", {"crop": 0.5}]', "–", "False"]


def test_plotly_comes_only_with_a_figure():
    assert len(page("Title", "", [Section("Words", ["text"])])) < 20_000


def test_contents_lead_to_the_sections():
    document = read(page("Title", "", [Section("One thing", ["a"]), Section("Another", ["b"])]))
    targets = [link.attributes["href"] for link in document.find("nav").find_all("a")]
    assert targets == [f"#{section.attributes['id']}" for section in sections(document).values()]
