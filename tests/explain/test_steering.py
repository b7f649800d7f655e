import math
from dataclasses import replace

import pytest
import torch

from expcam.explain.objectives import OBJECTIVES
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.steering import COUNTEREXAMPLE, Steering

RECIPE = ConstrainedRecipe(
    steps=(100, 100),
    views=1,
    first_area=0.2,
    descent=0.2,
    settling=0.5,
    trailing=(9.0, 2.0),
    response=(0.1, 0.1),
    above=3.0,
    below=(0.2, 0.5),
    ahead=(2.0, 0.4),
)
EVERYWHERE = torch.ones(10, 10, dtype=torch.bool)


def steered(lead: float, steps: int, *, budget: float | None = None, rows: int = 10) -> Steering:
    """A search for what is sufficient on grey, its lead the same in all steps."""
    allowed = torch.zeros(10, 10, dtype=torch.bool)
    allowed[:rows] = True
    steering = Steering(OBJECTIVES["sufficient"], RECIPE, budget=budget, allowed=allowed)
    for step in range(steps):
        steering.see([lead], step)
        steering.advance(step + 1, refuted=False)
    return steering


def test_the_area_never_falls_below_a_pixel() -> None:
    assert steered(100.0, 99).area == 0.01


@pytest.mark.parametrize(
    ("lead", "step", "exponent"),
    # The lead less the 0.4 asked for, and by how much the label may trail: 2, falling to 0.
    [(-1.6, 1, 0.004), (-1.6, 5, 0.02), (-0.4, 25, -0.02), (-0.8, 25, 0.02), (-0.8, 50, 0.05)],
)
def test_the_label_may_trail_at_first(lead: float, step: int, exponent: float) -> None:
    steering = steered(0.0, 0)
    steering.see([lead], step - 1)
    steering.advance(step, refuted=False)
    assert steering.area == pytest.approx(0.2 * math.exp(exponent), rel=1e-6)


@pytest.mark.parametrize(
    ("lead", "exponent"),
    [(1.4, -0.1), (0.4, 0.0), (0.2, 0.02), (-1.0, 0.05), (-100.0, 0.05), (9.0, -0.3)],
)
def test_the_area_follows_the_lead_once_settled(lead: float, exponent: float) -> None:
    steering = steered(-100.0, 50)
    steering.area = 0.1
    # So often that nothing of the first lead is left in the running mean.
    for step in range(50, 99):
        steering.see([lead], step)
    steering.advance(99, refuted=False)
    assert steering.area == pytest.approx(0.1 * math.exp(exponent), rel=1e-6)


def test_with_noise_the_area_grows_slower() -> None:
    steering = Steering(OBJECTIVES["robust"], RECIPE, budget=None, allowed=EVERYWHERE)
    steering.see([-100.0], 0)
    steering.advance(50, refuted=False)
    assert steering.area == pytest.approx(0.2 * math.exp(0.02))


def test_a_refuted_mask_grows_whatever_the_steps_see() -> None:
    steering = steered(9.0, 50)
    before = steering.area
    steering.advance(51, refuted=True)
    assert steering.area == pytest.approx(before * math.exp(0.025))


def test_a_given_area_is_reached_and_kept() -> None:
    assert steered(5.0, 10, budget=0.05).area == pytest.approx(0.1)
    assert steered(-100.0, 90, budget=0.05).area == pytest.approx(0.05)
    assert steered(5.0, 90, budget=0.4).area == pytest.approx(0.4)
    assert steered(5.0, 90, budget=0.4, rows=3).area == pytest.approx(0.3)


def test_what_is_asked_on_noise_is_twice_the_spread_of_the_lead() -> None:
    rng = torch.Generator().manual_seed(0)
    steering = Steering(OBJECTIVES["robust"], RECIPE, budget=None, allowed=EVERYWHERE)
    spreads, leads = [], []
    for step in range(900):
        noisy = steering.views == ["normal"]
        lead = 3 + 0.8 * float(torch.randn((), generator=rng)) if noisy else 9.0
        steering.see([lead], step)
        steering.advance(step + 1, refuted=False)
        if step >= 100:
            spreads.append(steering.spread)
            leads.append(steering.lead + 2 * steering.spread)
    assert sum(spreads) / len(spreads) == pytest.approx(0.8, rel=0.1)
    assert sum(leads) / len(leads) == pytest.approx(3, rel=0.05)


def test_the_hardest_view_is_next_and_all_are_seen_again() -> None:
    steering = Steering(OBJECTIVES["robust"], RECIPE, budget=None, allowed=EVERYWHERE)
    leads = {"normal": 6.0, "zero": 5.0, "blur": -1.0, "uniform": 6.0}
    seen = []
    for step in range(60):
        seen += steering.views
        steering.see([leads[view] for view in steering.views], step)
        steering.advance(step + 1, refuted=False)
    assert set(seen[:4]) == set(leads)
    assert steering.lead == pytest.approx(-1.4)
    assert not steering.holds
    assert seen.count("blur") > 60 / 3
    # Every third step or soon after, and every eighth.
    assert 14 <= seen.count("normal") <= 20
    assert 5 <= seen.count("zero") <= 8
    assert 5 <= seen.count("uniform") <= 8
    leads["blur"] = 2.0
    for step in range(60, 90):
        steering.see([leads[view] for view in steering.views], step)
        steering.advance(step + 1, refuted=False)
    assert steering.holds


def test_a_step_looks_twice_at_noise_and_once_at_what_stays_the_same() -> None:
    recipe = replace(RECIPE, views=2)
    steering = Steering(OBJECTIVES["robust"], recipe, budget=None, allowed=EVERYWHERE)
    pairs = []
    for step in range(80):
        hardest = "normal" if step < 40 else "zero"
        steering.see([-1.0 if view == hardest else 6.0 for view in steering.views], step)
        steering.advance(step + 1, refuted=False)
        pairs.append(tuple(steering.views))
    assert {len(pair) for pair in pairs} == {2}
    first, then = pairs[10:40], pairs[50:]
    assert first.count(("normal", "normal")) > len(first) / 2
    assert ("zero", "zero") not in then
    assert sum("zero" in pair for pair in then) > 0.8 * len(then)
    # The other one of the pair is the next hardest, or one that is due.
    assert {view for pair in then for view in pair} == {"normal", "zero", "blur", "uniform"}


def test_a_counterexample_takes_a_views_place_and_no_lead_follows_it() -> None:
    recipe = replace(RECIPE, views=2)
    steering = Steering(OBJECTIVES["robust"], recipe, budget=None, allowed=EVERYWHERE)
    for step in range(6):
        steering.see([5.0, 5.0], step)
        steering.advance(step + 1, refuted=False, confronted=step == 5)
    assert steering.views[0] in {"normal", "zero", "blur", "uniform"}
    assert steering.views[1] == COUNTEREXAMPLE
    before = steering.lead
    steering.see([5.0, -100.0], 6)
    assert steering.lead == pytest.approx(before, abs=0.2)
    assert steering.holds
    steering.advance(7, refuted=False)
    assert COUNTEREXAMPLE not in steering.views


def test_one_view_is_looked_at_alone() -> None:
    steering = Steering(
        OBJECTIVES["sufficient"], replace(RECIPE, views=2), budget=None, allowed=EVERYWHERE
    )
    for step in range(5):
        assert steering.views == ["zero"]
        steering.see([1.0], step)
        steering.advance(step + 1, refuted=False)


def test_a_pinned_area_follows_nothing() -> None:
    steering = steered(9.0, 3)
    steering.pin(0.07)
    for step in range(3, 20):
        steering.see([-100.0 if step % 2 else 100.0], step)
        steering.advance(step + 1, refuted=False)
    assert steering.pinned
    assert steering.area == 0.07
