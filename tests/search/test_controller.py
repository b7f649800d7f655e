import math

import pytest

from expcam.search.controller import Controller
from expcam.search.settings import Settings

SETTINGS = Settings(response=0.1, growth=0.02, first_margin=-2.0, last_margin=1.0, early=0.5)


def controller() -> Controller:
    return Controller(SETTINGS, smallest=0.001, largest=0.5)


def test_the_share_falls_by_what_the_margin_exceeds() -> None:
    found = controller()
    found.see("zero", 1.0)
    found.advance(0.0)  # 1 is 3 more than the -2 that is asked for at first
    assert found.share == pytest.approx(0.2 * math.exp(-0.3))


def test_more_is_asked_for_as_the_steps_go_on_and_the_share_grows_slowly() -> None:
    found = controller()
    found.see("zero", 0.0)
    found.advance(0.5)  # 1 is asked for
    assert found.share == pytest.approx(0.2 * math.exp(0.02))


def test_the_hardest_kind_decides() -> None:
    found = controller()
    assert found.hardest is None
    found.see("zero", 5.0)
    found.see("noise", -2.0)
    assert found.hardest == "noise"
    found.advance(0.0)
    assert found.share == pytest.approx(0.2)


def test_a_single_draw_hardly_counts() -> None:
    found = controller()
    for _ in range(30):
        found.see("noise", 4.0)
    found.see("noise", -6.0)
    # 3/4 of the mean and 1/4 of the draw: 1.5, and so 3.5 more than is asked for.
    found.advance(0.0)
    assert found.share == pytest.approx(0.2 * math.exp(-0.35))


def test_after_a_check_the_share_follows_what_that_had_to_spare() -> None:
    found = controller()
    found.see("zero", 100.0)
    found.see_check(-5.0)
    found.advance(0.6)
    assert found.share == pytest.approx(0.2 * math.exp(0.02))
    found.see_check(5.0)
    found.advance(0.6)
    assert found.share == pytest.approx(0.2)
    found.see_check(0.1)
    found.advance(0.6)
    assert found.share == pytest.approx(0.2 * math.exp(-0.01))


def test_the_share_stays_within_its_bounds() -> None:
    found = controller()
    found.see("zero", 1000.0)
    found.advance(0.0)
    assert found.share == 0.001
    for _ in range(10_000):
        found.see("zero", -1000.0)
        found.advance(0.0)
    assert found.share == 0.5
