"""What several tests need: classifiers, one explanation of a real photograph, a browser."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

import expcam
from tests.helpers import EXAMPLES, SHARED, RedDetector

if TYPE_CHECKING:
    from expcam.circuits.ablation.verification import CircuitCheck


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much memory the tests took, and the processes that they started."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        resource.getrusage(who).ru_maxrss * unit / 2**30
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    terminalreporter.write_line(
        f"peak memory {own:.1f} GiB, of the largest process started {children:.1f} GiB"
    )


@pytest.fixture
def detector() -> expcam.Classifier:
    return expcam.Classifier(
        RedDetector().eval(),
        transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
        labels=["nothing", "red", "blue"],
        name="detector",
    )


@pytest.fixture(scope="session")
def bundled() -> expcam.Classifier:
    return expcam.load_classifier("bundled", device="cpu")


@pytest.fixture(scope="session")
def cat(bundled: expcam.Classifier) -> expcam.Explanation:
    return expcam.explain_image(bundled, EXAMPLES / "cat.jpg")


@pytest.fixture(scope="session")
def cat_circuit(bundled: expcam.Classifier, cat: expcam.Explanation) -> expcam.Circuit:
    return expcam.read_circuit(bundled, cat)


@pytest.fixture(scope="session")
def cat_check(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> CircuitCheck:
    return expcam.verify_circuit(bundled, cat_circuit, [cat], draws=2)


@pytest.fixture(scope="session")
def cat_table(bundled: expcam.Classifier, cat: expcam.Explanation) -> pd.DataFrame:
    return expcam.compare(bundled, cat)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real ImageNet weights and photographs."""
    if not (SHARED / "models").is_dir():
        pytest.skip("no folder ../shared with real weights and photographs")
    return SHARED


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; a missing one fails the run where EXPCAM_REQUIRE_BROWSER is set."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("EXPCAM_REQUIRE_BROWSER"):
            pytest.fail("EXPCAM_REQUIRE_BROWSER is set but there is no Chromium")
        pytest.skip("no Chromium on this machine (Debian's package is `chromium`)")
    return path
