"""The map: every equation is on it, every box leads to its place, every arrow starts and ends at a box, and nothing follows from itself."""

import copy
import re
import tomllib
from functools import cache

import pytest
from site_pages import SITE, built

from book._tools.draw_map import PAGE, TABLE, page, parents, places
from book._tools.index_pages import EQUATIONS, chapters

MAP = tomllib.loads(TABLE.read_text())
book = cache(chapters)


def test_the_page_is_current():
    text, missing = page(book(), MAP)
    assert not missing and PAGE.read_text() == text, "python -m book._tools.draw_map"


def test_every_equation_is_there_once_and_nothing_else_has_its_place():
    text, _ = page(book(), MAP)
    drawn = re.findall(r'<a class="map-\w+" id="map-([\w-]+)" href="([^"]+)"', text)
    assert len(drawn) == len(MAP) and {name for name, _ in drawn} >= set(EQUATIONS)
    assert len({link for _, link in drawn}) == len(MAP)
    assert len({tuple(node["at"]) for node in MAP.values()}) == len(MAP), (
        "two boxes in one place"
    )
    assert all(f"**Eq. ({n})**" in text for n in EQUATIONS)


def test_what_follows_is_below_what_it_follows_from():
    """So the arrows make no circle: each goes down, or sideways in its row."""
    for key, node in MAP.items():
        for parent, way in parents(node):
            assert MAP[parent]["at"][1] < node["at"][1] or (
                way == "side" and MAP[parent]["at"][1] == node["at"][1]
            ), (parent, key)


def test_the_words_say_what_the_arrows_say():
    """The words of a box name each equation that an arrow comes from, and none that does not lead to it, however far above."""

    def above(key):
        return {
            ancestor
            for parent, _ in parents(MAP[key])
            for ancestor in {parent} | above(parent)
        }

    for key, node in MAP.items():
        named = {other for other in MAP if not other.isdigit() and other in node["by"]}
        said, drawn = (
            set(re.findall(r"\((\d+)\)", node["by"])) | named - {key},
            {parent for parent, _ in parents(node)},
        )
        assert drawn <= said <= above(key), key


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda table: table.pop("7"), r"Eq. \(7\) is not in map.toml"),
        (lambda table: table["9"].update({"from": ["17"]}), "follows from 17"),
        (
            lambda table: table["Algorithm 1"].update(place="14_training#Algorithm 7"),
            "no heading 'Algorithm 7'",
        ),
    ],
)
def test_what_is_missing_is_told(change, told):
    table = copy.deepcopy(MAP)
    change(table)
    assert re.search(told, " ".join(page(book(), table)[1]))


@built
def test_every_box_leads_to_its_place_in_the_site():
    html = (SITE / "book/map.html").read_text()
    for key, (link, _) in places(MAP, book())[0].items():
        target, anchor = link.split("#")
        assert f'href="{link}"' in html, key
        there = (SITE / "book" / target).read_text()
        assert f'id="{anchor}"' in there
        if key.isdigit():
            assert rf"\tag{{{key}}}" in there
