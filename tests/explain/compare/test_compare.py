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


class Tokens(nn.Module):
    """A classifier without a feature map, as a transformer is."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 16, stride=16)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.patches(x).flatten(2).mean(2))
        return logits


def test_a_method_that_cannot_run_is_a_gap_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no such\n layer")

    monkeypatch.setitem(BASELINES, "ig", replace(BASELINES["ig"], attribute=broken))
    classifier = expcam.Classifier(Tokens().eval(), lambda image: torch.zeros(3, 32, 32))
    explanation = keeping_everything(classifier, torch.rand(3, 32, 32), label=0)
    table = expcam.compare(classifier, explanation, ["gradcam", "ig", "disc"]).set_index("method")
    assert "needs a convolutional feature map" in table.loc["gradcam", "reason"]
    assert table.loc["ig", "reason"] == "no such layer"
    for method in ("gradcam", "ig"):
        assert table.loc[method, "attribution"] is None
        assert table.loc[method, ["area_kept", "area_robust", "seconds"]].isna().all()
    assert table.loc["disc", "reason"] == table.loc["expcam", "reason"] == ""
    assert table.loc["disc", "attribution"].shape == (32, 32)
