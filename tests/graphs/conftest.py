"""What the tests of pages and pictures share."""

import numpy as np
import pandas as pd
import pytest

from expcam.explain.compare.compare import OURS


@pytest.fixture
def failed_table() -> pd.DataFrame:
    """A table in which one method ran, beside the mask, and another could not."""
    scores = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    nan = float("nan")
    rows = [
        (OURS, OURS, 0.05, 0.05, 1.0, scores, ""),
        ("ig", "Integrated Gradients", 0.1, nan, 0.5, scores, ""),
        ("gradcam", "Grad-CAM", nan, nan, nan, None, "no feature map"),
    ]
    columns = ["method", "title", "area_kept", "area_robust", "seconds", "attribution", "reason"]
    return pd.DataFrame(rows, columns=columns)
