"""The circuit on the page: every control does what it says. Figures are those of `made`."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from playwright.sync_api import Page

import expcam
from tests.graphs.made import (
    large_circuit,
    made_circuit,
    made_explanation,
    made_facts,
    made_table,
)


def node(page: Page, key: str) -> Any:
    return page.locator(f'#drawing .node[data-node="{key}"]')


def lit(page: Page) -> set[str]:
    return set(
        page.eval_on_selector_all("#drawing .node.lit", "all => all.map(e => e.dataset.node)")
    )


def drawn(page: Page) -> str:
    return page.inner_text("#told")


def slide(page: Page, name: str, value: int) -> None:
    page.locator(name).fill(str(value))


def test_it_begins_with_the_channel_that_matters_most_in_the_last_layer(opened: Page) -> None:
    panel = opened.inner_text("#panel")
    assert panel.startswith("late:7")
    assert "It matters most in the last layer before the class." in panel
    assert "Number 1 by relevance in late: relevance 4" in panel
    assert "from 5 to 1 (−4), and the classifier says “blue” instead" in panel
    assert opened.locator("#panel canvas").count() == 2
    assert opened.locator("#panel .crops img").count() == 1


def test_a_click_tells_what_feeds_a_channel_and_lights_its_paths(opened: Page) -> None:
    node(opened, "mid:5").click()
    panel = opened.inner_text("#panel").split("\n")
    assert panel[0] == "mid:5"
    excited = panel[panel.index("excited by") : panel.index("inhibited by")]
    inhibited = panel[panel.index("inhibited by") : panel.index("excites")]
    assert excited[1:] == ["stem:1", "+1"]
    assert inhibited[1:] == ["stem:2", "−2"]
    assert "Without it (set to zero, all else as it is)" in opened.inner_text("#without")
    # Both of its inputs make half of it, late:8 is its own, and that makes a quarter of the class.
    assert "12.5 % of the class" in opened.inner_text("#panel")
    assert lit(opened) == {"stem:1", "stem:2", "mid:5", "late:7", "late:8", "fc:1"}
    opened.get_by_role("button", name="stem:2").first.click()
    assert opened.inner_text("#panel").startswith("stem:2")
    opened.get_by_role("button", name="close", exact=True).click()
    assert "No channel is chosen" in opened.inner_text("#panel")
    assert lit(opened) == set()


def test_a_map_is_strong_where_the_channel_fires(opened: Page) -> None:
    node(opened, "late:7").click()
    first, last = opened.locator("#panel canvas").first.evaluate(
        """canvas => {
            const { data } = canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height);
            return [[...data.slice(0, 4)], [...data.slice(-4)]];
        }"""
    )
    assert first[2] > first[0] + 50  # blue: below zero
    assert last[0] > last[2] + 50  # yellow: above


def test_the_keyboard_does_it_all(opened: Page) -> None:
    node(opened, "late:7").focus()
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("Enter")
    assert opened.inner_text("#panel").startswith("mid:")
    opened.keyboard.press("p")
    assert opened.locator("#pins article").count() == 1
    before = opened.inner_text("#panel h3 >> nth=0")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowUp")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press(" ")
    after = opened.inner_text("#panel h3 >> nth=0")
    assert {before, after} <= {"mid:4", "mid:5"}
    opened.keyboard.press("Escape")
    assert "No channel is chosen" in opened.inner_text("#panel")


def test_sliders_choose_channels_and_edges(opened: Page) -> None:
    assert drawn(opened).startswith("Shows 7 of 7 channels and 7 of 10 edges")
    slide(opened, "#threshold", 0)
    assert "10 of 10 edges" in drawn(opened)
    # Each channel's strongest input; mid:5 has two that are alike.
    slide(opened, "#threshold", 100)
    assert "6 of 10 edges" in drawn(opened)
    slide(opened, "#most", 1)
    assert "Shows 3 of 7 channels" in drawn(opened)
    opened.locator("#choose-width").select_option("signed")
    slide(opened, "#most", 16)
    # The largest by what it adds on this image: of mid:5 it is stem:2 alone.
    assert "5 of 10 edges" in drawn(opened)
    assert opened.locator(".edges.base .negative").count() == 1


def test_the_size_of_a_channel_can_be_its_effect(opened: Page) -> None:
    radius = "e => Number(e.querySelector('.face').getAttribute('r'))"
    opened.locator("#choose-size").select_option("effect")
    assert "effect when cut" in opened.inner_text("#key")
    assert node(opened, "late:7").evaluate(radius) == pytest.approx(10.5)
    assert node(opened, "late:8").evaluate(radius) == pytest.approx(3.5 + 7 * (1 / 4) ** 0.5)
    assert node(opened, "fc:1").evaluate(radius) == pytest.approx(3.5)


def test_zoom_makes_layers_stand_further_apart(look: Any, untested_page: Path) -> None:
    with look(untested_page, width=390) as page:
        page.evaluate("document.getElementById('controls').open = true")
        frame = page.locator("#drawing")
        for _ in range(5):
            page.get_by_role("button", name="wider").click()
        overflows = "e => e.scrollWidth - e.clientWidth > 100"
        assert frame.evaluate(overflows)
        # What is chosen is brought into view; the page itself never scrolls sideways.
        page.fill("#search", "fc")
        page.keyboard.press("Enter")
        assert frame.evaluate("e => e.scrollLeft > 50")
        page.get_by_role("button", name="fit").click()
        assert not frame.evaluate("e => e.scrollWidth > e.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_search_by_layer_number_and_name(opened: Page) -> None:
    found = ".node.found"
    opened.fill("#search", "mid")
    assert opened.locator(found).count() == 2
    opened.keyboard.press("Enter")
    opened.keyboard.press("Enter")
    assert opened.inner_text("#panel").startswith("mid:")
    opened.fill("#search", ":8")
    assert opened.inner_text("#search-result").startswith("1 found")
    opened.keyboard.press("Enter")
    assert opened.inner_text("#panel").startswith("late:8")
    opened.fill("#search", "nose")
    assert opened.inner_text("#search-result") == "no such channel here"


def test_pinned_channels_stand_side_by_side_and_become_one(opened: Page) -> None:
    for key in ("stem:0", "stem:2", "late:8"):
        node(opened, key).click()
        opened.get_by_role("button", name="pin", exact=True).click()
    cards = opened.locator("#pins article")
    assert cards.count() == 3
    assert "stem:2" in cards.nth(1).inner_text()
    assert cards.nth(1).locator("canvas").count() == 2
    opened.get_by_role("button", name="the pinned ones").click()
    assert opened.locator("#drawing .node rect.face").count() == 1
    assert "7 of 7 channels" in drawn(opened)
    node(opened, "stem:0").click()
    assert "one of 2 that stand as one" in opened.inner_text("#panel")
    opened.get_by_role("button", name="open this group").click()
    assert opened.locator("#drawing .node rect.face").count() == 0
    opened.get_by_role("button", name="unpin late:8").click()
    assert cards.count() == 2


def test_channels_that_fire_at_the_same_places_become_one(opened: Page) -> None:
    # In `stem` the even ones, 0 and 2, have the same map.
    opened.get_by_role("button", name="channels that do alike").click()
    assert opened.locator("#drawing .node rect.face").count() == 1
    assert node(opened, "stem:1").locator("circle.face").count() == 1
    opened.get_by_role("button", name="open all").click()
    assert opened.locator("#drawing .node rect.face").count() == 0


def test_a_link_restores_the_view(opened: Page, look: Any, untested_page: Path) -> None:
    node(opened, "mid:4").click()
    opened.fill("#own-name", "stripes, a = b & c")
    opened.keyboard.press("Enter")
    opened.get_by_role("button", name="pin", exact=True).click()
    opened.get_by_role("button", name="channels that do alike").click()
    slide(opened, "#threshold", 33)
    opened.locator("#choose-width").select_option("signed")
    opened.get_by_role("button", name="wider").click()
    assert "stripes, a = b & c (mid:4)" in opened.inner_text("#panel")
    state = opened.evaluate("state")
    with look(untested_page, "#" + opened.url.split("#")[1]) as again:
        assert again.evaluate("state") == state
        assert drawn(again) == drawn(opened)
        assert again.locator("#pins article").count() == 1
        again.get_by_role("button", name="reset").click()
        assert again.locator("#pins article").count() == 0
        assert again.evaluate("state.threshold") == 60


def test_a_link_that_names_what_is_not_there_is_survived(look: Any, untested_page: Path) -> None:
    wrong = "#chosen=nose%3A1&circuit=9&threshold=-5&most=x&pin=a&group=stem%3A0&name=b&width=z"
    with look(untested_page, wrong) as page:
        assert page.evaluate("state.pins.length + state.groups.length") == 0
        assert page.evaluate("[state.circuit, state.threshold, state.most]") == [0, 60, 8]


def test_circuits_can_be_changed_and_compared(opened: Page) -> None:
    opened.locator("#choose-circuit").select_option("1")
    assert "5 of 5 channels" in drawn(opened)
    assert "smaller" in drawn(opened)
    opened.locator("#choose-circuit").select_option("0")
    opened.locator("#choose-against").select_option("1")
    told = drawn(opened)
    assert "2 of those drawn are in the first alone, 0 in the second alone" in told
    assert "71.4 % of the channels are in both" in told  # 5 of 7
    assert opened.locator("#drawing .node.first").count() == 2
    assert "a larger share in the first" in opened.inner_text("#key")
    assert opened.locator("#choose-width").is_disabled()


def test_what_is_saved_can_be_loaded_with_the_readers_names(opened: Page, tmp_path: Path) -> None:
    node(opened, "mid:4").click()
    opened.fill("#own-name", "stripes")
    opened.keyboard.press("Enter")
    with opened.expect_download() as started:
        opened.get_by_role("button", name="save circuit").click()
    path = tmp_path / "circuit.json"
    started.value.save_as(path)
    graph = expcam.Circuit.load(path).graph
    assert graph.nodes["mid", 4].pop("name") == "stripes"
    assert nx.utils.graphs_equal(graph, made_circuit().graph)
    assert "name" in json.dumps(json.loads(path.read_text())["nodes"])


def test_of_a_large_circuit_it_says_how_much_it_shows(look: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    expcam.write_report(
        path,
        made_explanation(),
        large_circuit(),
        made_table(),
        circuits={"published readout": made_circuit()},
    )
    with look(path) as page:
        # 3 of `stem`, 8 of 42 of `mid`, 2 of `late`; in all 4 edges, 3 and 12, and 2 to the class.
        assert drawn(page).startswith("Shows 13 of 47 channels and ")
        assert "This page holds 21 of the channels and 21 of the edges" in drawn(page)
        slide(page, "#most", 16)
        assert drawn(page).startswith("Shows 21 of 47 channels and ")
        with page.expect_download() as started:
            page.get_by_role("button", name="save this excerpt").click()
        started.value.save_as(tmp_path / "circuit.json")
        page.locator("#choose-circuit").select_option("1")
        assert drawn(page).startswith("Shows 7 of 7 channels and ")
        assert "This page holds" not in drawn(page)
        assert page.inner_text("#export") == "save circuit"
    saved = expcam.Circuit.load(tmp_path / "circuit.json").graph
    assert saved.graph["excerpt"] == "21 of 47 channels, 21 of 50 edges"
    assert len(saved) == 22


def framed(path: Path, frame: str) -> Path:
    """A page with a notebook's output in it."""
    path.write_text(f"<!doctype html><div id='drawing'><i class='node'>.</i></div>{frame}")
    return path


def test_in_a_notebook_the_same_click_shows_the_same_panel(look: Any, tmp_path: Path) -> None:
    with look(framed(tmp_path / "notebook.html", made_circuit()._repr_html_())) as page:
        inside = page.frame_locator("iframe")
        inside.locator('.node[data-node="mid:5"]').click()
        assert "inhibited by" in inside.locator("#panel").inner_text()


def test_in_a_notebook_the_whole_page_tells_what_the_class_is_without_a_channel(
    look: Any, tmp_path: Path
) -> None:
    shown = expcam.show_report(
        made_explanation(), made_circuit(), made_table(), channels=made_facts()
    )
    with look(framed(tmp_path / "notebook.html", shown._repr_html_())) as page:
        inside = page.frame_locator("iframe")
        inside.locator('.node[data-node="late:8"]').click()
        assert "from 5 to 4" in inside.locator("#without").inner_text()
        assert inside.locator("#panel canvas").count() == 2
        inside.get_by_role("button", name="the rest", exact=True).click()
        assert inside.locator("#picture-3").evaluate("e => e.style.opacity") == "1"
