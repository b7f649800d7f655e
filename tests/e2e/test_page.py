"""The page in a real browser: what it shows, to whom, and that nothing leaves it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

import expcam
from tests.graphs.made import (
    HOSTILE,
    made_check,
    made_circuit,
    made_explanation,
    made_facts,
    made_table,
)

WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def opacities(page: Page, view: str = "#view-0") -> list[float]:
    return page.eval_on_selector_all(
        f"{view} .stack img", "all => all.map(picture => Number(picture.style.opacity))"
    )


def test_the_first_screen_answers_what_is_needed_and_what_it_holds_on(opened: Page) -> None:
    assert opened.inner_text("h1") == "red"
    assert "These 50% of the pixels are enough" in opened.inner_text("#view-0 .verdict")
    figures = opened.locator("#view-0 .big").all_inner_texts()
    assert figures == ["50%", "8 of 8", "lost", "75%", "7 channels"]
    assert opened.locator("#view-0 .figures").bounding_box()["y"] < 900  # type: ignore[index]


def test_a_slider_fades_from_the_photograph_to_the_explanation(opened: Page) -> None:
    assert opacities(opened) == [1, 1, 0, 0]
    opened.locator("#view-0 .slider").fill("1.5")
    assert opacities(opened) == [1, 1, 0.5, 0]
    opened.get_by_role("button", name="photograph", exact=True).click()
    assert opacities(opened) == [1, 0, 0, 0]
    opened.get_by_role("button", name="the rest", exact=True).click()
    assert opacities(opened) == [1, 1, 1, 1]


def test_each_object_and_each_alternative_has_its_tab(opened: Page) -> None:
    def shown() -> list[bool]:
        return [opened.locator(f"#view-{place}").is_visible() for place in range(3)]

    assert shown() == [True, False, False]
    opened.get_by_role("tab", name="object 2").click()
    assert shown() == [False, True, False]
    figures = opened.locator("#view-1 .big").all_inner_texts()
    assert figures == ["50%", "8 of 8", "lost", "75%", "6 channels"]
    for key, place in (("ArrowRight", 2), ("ArrowRight", 0), ("ArrowLeft", 2), ("Home", 0)):
        opened.keyboard.press(key)
        assert shown() == [place == each for each in range(3)]
    opened.keyboard.press("End")
    chosen = opened.locator('[role="tab"][aria-selected="true"]')
    assert chosen.all_inner_texts() == ["alternative 1"]
    assert chosen.evaluate("tab => tab === document.activeElement")
    # A slider of its own, and no circuit: it is of the same object.
    opened.locator("#view-2 .slider").fill("0")
    assert opacities(opened, "#view-2") == [1, 0, 0, 0]
    assert opacities(opened) == [1, 1, 0, 0]
    assert opened.locator("#view-2 .big").count() == 4


def test_a_link_restores_the_tab(opened: Page, look: Any, untested_page: Path) -> None:
    opened.get_by_role("tab", name="alternative 1").click()
    with look(untested_page, "#" + opened.url.split("#")[1]) as again:
        assert again.locator("#view-2").is_visible()
        again.get_by_role("button", name="reset").click()
        assert again.locator("#view-0").is_visible()
    with look(untested_page, "#view=3") as again:  # there is no such tab
        assert again.locator("#view-0").is_visible()


def test_from_an_object_one_gets_to_its_circuit(opened: Page) -> None:
    opened.get_by_role("tab", name="object 2").click()
    opened.get_by_role("button", name="Which channels carried this one?").click()
    assert "6 of 6 channels" in opened.inner_text("#told")
    assert "readout of object 2" in opened.inner_text("#told")
    text = opened.inner_text("#circuit-section")
    assert "The readouts of the 2 objects (7, 6 channels) have 6 channels in common." in text
    opened.get_by_role("tab", name="object 1").click()
    opened.get_by_role("button", name="Which channels carried it?").click()
    assert "7 of 7 channels" in opened.inner_text("#told")


@pytest.mark.parametrize("width", [1280, 390])
def test_what_a_match_costs_is_drawn_beside_its_controls(
    look: Any, made_page: Path, width: int
) -> None:
    with look(made_page, width=width) as page:
        page.wait_for_selector("#match-curve .scatterlayer .point")
        # Three of the mask, of the same mask elsewhere, and two of Grad-CAM.
        assert page.locator("#match-curve .scatterlayer .point").count() == 8
        assert "this mask elsewhere" in (page.text_content("#match-curve .legend") or "")
        box = page.locator("#match-curve .svg-container").bounding_box()
        assert box is not None
        assert box["width"] <= width
        page.get_by_text("What is kept at each stage").click()
        assert "60% (48%)" in page.inner_text("#taps")


def test_other_methods_are_cut_at_our_area_and_at_theirs(opened: Page) -> None:
    assert "Grad-CAM needs 50% (2.0 times)" in opened.inner_text("#methods-section")
    assert "no gradient" in opened.inner_text("#methods")
    cards = opened.locator(".cards figure")
    assert cards.count() == 2
    for button, text in (
        ("cut at this mask’s area", "its best 50% of the pixels"),
        ("cut at the area it needs", "50% of the pixels keep the label on all backgrounds"),
        ("what it shows", "class evidence in the last feature map"),
    ):
        opened.get_by_role("button", name=button).click()
        assert text in cards.first.inner_text()
        assert cards.first.locator("img:visible").count() == 1
    opened.get_by_role("button", name="cut at the area it needs").click()
    assert "no share of the pixels that was tried" in cards.nth(1).inner_text()


def test_each_test_says_its_colour_and_its_control(look: Any, made_page: Path) -> None:
    with look(made_page) as opened:
        judged(opened)


def judged(opened: Page) -> None:
    colours = opened.locator(".trust .mark").all_inner_texts()
    assert colours == ["green: holds"] * 8
    circuit = opened.locator(".trust li").nth(6).inner_text()
    assert "0.90 of the whole model's logit" in circuit
    assert "as many random channels give 0.10" in circuit
    assert "late:7" in opened.inner_text("#trust-section")
    opened.wait_for_selector("#curves .scatterlayer .point")
    assert "the circuit itself" in (opened.text_content("#curves .legend") or "")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(look: Any, made_page: Path, width: int, scheme: str) -> None:
    with look(made_page, "#pin=mid%3A4", width=width, scheme=scheme) as page:
        page.evaluate("document.getElementById('controls').open = true")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        results = Axe().run(page, options=WCAG)
        assert results.violations_count == 0, results.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_on_paper_there_are_no_controls(opened: Page) -> None:
    opened.emulate_media(media="print")
    for selector in ("#tools", "#view-0 .slider", "#view-0 .stops"):
        assert opened.locator(selector).is_hidden()
    assert opened.locator("#drawing svg").last.is_visible()


def test_hostile_texts_are_shown_as_text(look: Any, tmp_path: Path) -> None:
    path = tmp_path / "g.html"
    facts = made_facts()
    facts.effects["instead"] = HOSTILE
    expcam.write_report(
        path,
        made_explanation(HOSTILE, f"{HOSTILE}.jpg"),
        made_circuit(label=HOSTILE),
        made_table().assign(reason=["", "", HOSTILE, ""]),
        circuits={HOSTILE: made_circuit(label=HOSTILE)},
        check=made_check(),
        channels=facts,
    )
    with look(
        path, "#circuit=1&chosen=late%3A7&name=late%3A7%3D" + HOSTILE.replace("=", "%3D")
    ) as page:
        page.fill("#search", HOSTILE)
        for selector in ("h1", "#view-0 .verdict", "#methods", "#without", "#panel h3", "#told"):
            assert HOSTILE in page.inner_text(selector), selector
        assert page.locator("img[src='x']").count() == 0
        assert page.title() == f"{HOSTILE} · expcam"


def test_a_script_that_is_not_the_pages_own_does_not_run(look: Any, untested_page: Path) -> None:
    refused: list[str] = []
    with look(untested_page, problems=refused) as page:
        page.evaluate(
            "const s = document.createElement('script'); s.text = 'window.hacked = 1';"
            "document.body.append(s)"
        )
        assert page.evaluate("window.hacked") is None
        page.evaluate("fetch('https://example.org').catch(() => 0)")
        assert len(refused) >= 2
        assert all("Content Security Policy" in text for text in refused)
        refused.clear()


def test_what_was_not_computed_says_what_would(look: Any, tmp_path: Path) -> None:
    path = tmp_path / "g.html"
    explanation = dataclasses.replace(made_explanation(), necessary=False)
    expcam.write_report(path, explanation, made_circuit(), made_table().iloc[:1])
    with look(path) as page:
        text = page.inner_text("#trust-section")
        for option in ("--alternatives 1", "--match-curve"):
            assert f"is shown by: expcam-circuit square.png --out graph.html {option}" in text
        assert text.count("not computed") == 2
        assert "expcam-circuit square.png --out graph.html --verify" in text
        assert "What the class is without it was not computed" in page.inner_text("#panel")
    assert path.stat().st_size < 200_000  # without curves it needs no plotly
