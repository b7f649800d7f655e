import math

import pytest

import expcam
from expcam.errors import OptionError
from tests.helpers import red_square


def test_the_curve_begins_with_the_mask_that_nothing_was_asked_of(
    detector: expcam.Classifier,
) -> None:
    curve = expcam.match_curve(detector, red_square(), [0.95])
    assert math.isnan(curve.asked[0])
    assert curve.asked[1] == 0.95
    alone = expcam.explain_image(detector, red_square())
    assert curve.area[0] == alone.area
    assert curve.match[0] == alone.match.last
    assert curve.match[1] >= 0.95
    assert set(curve.columns) >= {"kept", "robustness", "moved", "gradcam", "divergence"}
    with pytest.raises(OptionError, match="no levels"):
        expcam.match_curve(detector, red_square(), [])
