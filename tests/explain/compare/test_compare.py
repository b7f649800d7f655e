import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import expcam
from expcam.errors import OptionError
from expcam.explain.compare.attributions import BASELINES
from tests.helpers import keeping_everything, red_square


def test_every_method_is_measured_on_the_same_footing(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square())
    table = expcam.compare(detector, explanation, ["gradcam", "disc"]).set_index("method")
    assert list(table.index) == ["expcam", "gradcam", "disc"]
    assert table.loc["expcam", "area_kept"] <= explanation.area
    # The square lies off the centre: the disc reaches enough of it only when it is large.
    assert table.loc["disc", "area_kept"] > table.loc["gradcam", "area_kept"]
    assert (table["area_robust"] >= table["area_kept"]).all()


def test_a_class_that_no_mask_keeps_is_a_gap(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square(), target="blue")
    table = expcam.compare(detector, explanation, ["disc"])
    assert table["area_kept"].map(math.isnan).all()


def test_unknown_methods_are_refused(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square())
    with pytest.raises(OptionError, match="unknown baseline `lime`; there are: gradcam"):
        expcam.compare(detector, explanation, ["lime"])


def test_real_photograph(cat_table: pd.DataFrame) -> None:
    rows = cat_table.set_index("method")
    assert rows.loc["expcam", "area_robust"] < rows.loc["disc", "area_robust"]


def test_a_method_that_cannot_run_is_a_gap_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no such\n layer")

    monkeypatch.setitem(BASELINES, "ig", replace(BASELINES["ig"], attribute=broken))
    # No feature map, as in a transformer.
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()
    classifier = expcam.Classifier(flat, lambda image: torch.zeros(3, 32, 32))
    explanation = keeping_everything(classifier, torch.rand(3, 32, 32), label=0)
    table = expcam.compare(classifier, explanation, ["gradcam", "ig", "disc"]).set_index("method")
    assert "needs a convolutional feature map" in table.loc["gradcam", "reason"]
    assert table.loc["ig", "reason"] == "no such layer"
    for method in ("gradcam", "ig"):
        assert table.loc[method, "attribution"] is None
        assert table.loc[method, ["area_kept", "area_robust", "seconds"]].isna().all()
    assert table.loc["disc", "reason"] == table.loc["expcam", "reason"] == ""
    assert table.loc["disc", "attribution"].shape == (32, 32)
