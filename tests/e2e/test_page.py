"""The page in a real browser."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import expcam
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.formats import Node


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_table: pd.DataFrame,
    cat_check: CircuitCheck,
    cat_maps: list[tuple[Node, npt.NDArray[np.float32]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("page") / "graph.html"
    expcam.write_report(
        path, cat, cat_circuit, cat_table, check=cat_check, necessary=[], maps=cat_maps
    )
    return path


@pytest.fixture
def opened(browser: Browser, written: Path) -> Iterator[Page]:
    """The cat's page; at the end of the test there was no error and no request left it."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    problems: list[str] = []
    page.on(
        "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda r: (
            problems.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
        ),
    )
    page.goto(written.as_uri())
    page.wait_for_selector("#circuit-figure .scatterlayer .point")
    yield page
    page.close()
    assert problems == []


def test_the_page_shows_the_finding(opened: Page, cat: expcam.Explanation) -> None:
    assert opened.inner_text("h1") == cat.label_name
    assert "Grad-CAM" in opened.inner_text("#methods")
    sizes = opened.eval_on_selector_all("img", "all => all.map(i => [i.naturalWidth, i.complete])")
    assert len(sizes) == 4 + 3 + 3
    assert all(width >= 400 and complete for width, complete in sizes)


def test_the_page_tests_its_circuit(opened: Page) -> None:
    opened.wait_for_selector("#curves-figure .scatterlayer .point")
    legend = opened.locator("#curves-figure .legend").text_content() or ""
    for name in ("relevance (this circuit's)", "random", "randomised", "the circuit itself"):
        assert name in legend
    text = opened.inner_text("body")
    assert "as many random ones give" in text
    assert "No single channel of the circuit is necessary" in text
    # Figures are drawn where they fit: the star of the circuit lies inside its axes.
    star = opened.locator("#curves-figure .scatterlayer .trace").last.locator(".point")
    box, plot = star.bounding_box(), opened.locator("#curves-figure").bounding_box()
    assert box is not None
    assert plot is not None
    assert plot["x"] < box["x"] < plot["x"] + plot["width"]


def test_hovering_over_a_channel_tells_its_figures(opened: Page) -> None:
    channel = opened.locator("#circuit-figure .scatterlayer .trace").last.locator(".point").first
    channel.scroll_into_view_if_needed()
    box = channel.bounding_box()
    assert box is not None
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.wait_for_selector("#circuit-figure .hoverlayer .hovertext")
    text = opened.text_content("#circuit-figure .hoverlayer") or ""
    assert "channel" in text
    assert "relevance" in text


def test_more_edges_at_the_press_of_a_button(opened: Page) -> None:
    count = "() => document.querySelectorAll('#circuit-figure .scatterlayer .js-line').length"
    few = opened.evaluate(count)
    opened.locator("#circuit-figure .updatemenu-button").nth(2).click()
    opened.wait_for_function(f"({count})() > {few}")


def test_labels_do_not_overlap(opened: Page) -> None:
    boxes = opened.eval_on_selector_all(
        "#circuit-figure .xtick text",
        "all => all.map(t => t.getBoundingClientRect()).map(b => b.right)",
    )
    assert all(b - a > 15 for a, b in itertools.pairwise(boxes))
    fits = "() => document.documentElement.scrollWidth <= window.innerWidth"
    assert opened.evaluate(fits)
