import math

import pytest

from expcam.search.bounds import lower_bound


def test_against_values_worked_out_by_hand() -> None:
    # All of n: the bound b has bⁿ = 0.05. None of n: nothing is known. One of two: (1 - b)² = 0.95.
    assert lower_bound(32, 32) == pytest.approx(0.05 ** (1 / 32))
    assert lower_bound(0, 32) == 0
    assert lower_bound(1, 2) == pytest.approx(1 - math.sqrt(0.95))
    assert lower_bound(32, 32, level=0.99) == pytest.approx(0.01 ** (1 / 32))
