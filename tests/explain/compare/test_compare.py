import math

import pandas as pd
import pytest

import expcam
from expcam.errors import OptionError
from tests.helpers import red_square


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
