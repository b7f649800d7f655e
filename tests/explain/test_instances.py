import numpy as np
import pytest

import expcam
from expcam.errors import OptionError
from tests.helpers import red_square


def test_instances_lie_apart_and_each_is_enough(detector: expcam.Classifier) -> None:
    x = red_square()
    x[0, 20:28, 4:12] = 2
    found = expcam.explain_instances(detector, x, most=4)
    assert len(found) >= 2
    assert all(each.kept for each in found)
    assert np.stack([each.mask for each in found]).sum(0).max() == 1


def test_the_first_is_the_explanation_and_one_is_enough(detector: expcam.Classifier) -> None:
    (only,) = expcam.explain_instances(detector, red_square(), most=1)
    alone = expcam.explain_image(detector, red_square())
    assert np.array_equal(only.mask, alone.mask)


def test_at_least_one_is_asked_for(detector: expcam.Classifier) -> None:
    with pytest.raises(OptionError, match="most 0"):
        expcam.explain_instances(detector, red_square(), most=0)
