"""The catalogue itself: whole, unique, searchable."""

from ommatid.catalog.systems import all_systems, areas, matching


def test_every_system_is_whole_and_named_once() -> None:
    systems = all_systems()
    assert len({system.id for system in systems}) == len(systems) > 300
    assert all(system.id and system.area and system.title for system in systems)
    assert [system.id for system in systems] == sorted(system.id for system in systems)


def test_every_word_must_match_id_or_title_whatever_the_case() -> None:
    found = {system.id for system in matching("SHIFTED swin")}
    assert "swin" in found
    assert "cswin" not in found
    assert matching("no such words") == []


def test_areas_divide_the_catalogue() -> None:
    assert sum(len(matching(area=area)) for area in areas()) == len(all_systems())
    assert matching("swin", area="vlm") == []
