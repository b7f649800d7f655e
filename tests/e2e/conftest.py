"""One browser for all tests of pages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import expcam
from expcam.circuits.ablation.verification import CircuitCheck
from tests.graphs.made import (
    made_check,
    made_circuit,
    made_curve,
    made_explanation,
    made_facts,
    made_table,
)

Opener = Callable[..., Any]


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def made_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finding made by hand: two objects, an alternative, and all that is tested."""
    path = tmp_path_factory.mktemp("page") / "made.html"
    return written(path, check=made_check(), curve=made_curve())


@pytest.fixture(scope="session")
def untested_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a test of the circuit: it has no plotly and is quicker to open."""
    return written(tmp_path_factory.mktemp("page") / "untested.html")


def written(
    path: Path, *, check: CircuitCheck | None = None, curve: pd.DataFrame | None = None
) -> Path:
    expcam.write_report(
        path,
        made_explanation(),
        made_circuit(),
        made_table(),
        instances=[made_explanation()],
        readouts=[made_circuit(), made_circuit(without=(("late", 8),))],
        alternatives=[made_explanation()],
        curve=curve,
        circuits={"smaller": made_circuit(without=(("mid", 5), ("stem", 2)))},
        check=check,
        channels=made_facts(),
    )
    return path


@pytest.fixture
def look(browser: Browser) -> Opener:
    """Opens a page; when it is closed there was no error, and no request had left it."""

    @contextmanager
    def opened(
        path: Path,
        fragment: str = "",
        *,
        width: int = 1280,
        scheme: str = "light",
        problems: list[str] | None = None,
    ) -> Iterator[Page]:
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        problems = [] if problems is None else problems
        page.on(
            "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        inside = ("file:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(inside) else problems.append(r.url))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#drawing .node")
        yield page
        page.close()
        assert problems == []

    return opened


@pytest.fixture
def opened(look: Opener, untested_page: Path) -> Iterator[Page]:
    """The page of the finding made by hand."""
    with look(untested_page) as page:
        yield page
