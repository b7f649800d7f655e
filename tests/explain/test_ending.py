import pytest
import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain import ending, solver
from expcam.explain.candidates import Candidate
from expcam.explain.checks import Check
from expcam.explain.objectives import CHECKS
from expcam.explain.problem import pose
from expcam.explain.pruning import Pruned, prune
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.solver import Search, solve_constrained
from expcam.explain.steering import Steering
from expcam.explain.task import Task
from expcam.progress import silent
from tests.helpers import one_step, red_square, solved


def test_where_nothing_leads_by_what_is_asked_it_is_enough_to_lead(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pruned(mask: torch.Tensor, check: Check, most_passes: float) -> Pruned:
        demands.append(check.demanded)
        assert check.holds(mask)
        return prune(mask, check, most_passes)

    demands: list[float] = []
    monkeypatch.setattr(ending, "prune", pruned)
    expected = expcam.explain_image(detector, red_square())
    monkeypatch.setattr(Steering, "spread", 1000.0)
    explanation = expcam.explain_image(detector, red_square())
    assert explanation.robustness >= 0.75
    assert explanation.area < 2 * expected.area
    # So much is not there; pruning may not lower what is.
    assert demands[0] < 10 < demands[1]


def test_a_larger_mask_on_the_way_down_is_taken_where_the_search_finds_nothing(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label may trail by so much that the area falls to next to nothing."""
    recipe = ConstrainedRecipe(steps=(60, 60), trailing=(9.0, 9.0), settling=5.0, most_passes=0)
    monkeypatch.setattr(ending, "GUESSED_AREAS", ())
    areas = []
    for remembered in (1.5, 1e9):
        monkeypatch.setattr(solver, "REMEMBERED", remembered)
        with frozen(detector.module):
            problem = pose(detector, red_square(), None)
            search = Search(problem, recipe, Task("robust", None, seed=0))
            for _ in range(search.steps):
                one_step(search)
            assert search._steering.area < 0.01
            areas.append(float(search.solution().mask.float().mean()))
    assert areas[0] < 0.2 < 0.9 < areas[1]


def test_a_disc_is_taken_where_the_search_finds_nothing_smaller(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A guess that ranks the red square last, and steps that do not learn.
    square = (red_square()[0] > 0).float()
    centred = red_square().roll((8, -4), (1, 2))
    monkeypatch.setattr(solver, "first_guess", lambda problem: -square.roll((8, -4), (0, 1)))
    recipe = ConstrainedRecipe(generator="free", residual_rate=0.0, steps=(20, 20), most_passes=0)
    areas = []
    for tried in ((0.2, 0.4), ()):
        monkeypatch.setattr(ending, "GUESSED_AREAS", tried)
        with frozen(detector.module):
            problem = pose(detector, centred, None)
            (found,) = solve_constrained([problem], recipe, Task("robust", None, seed=0), silent)
        areas.append(float(found.mask.float().mean()))
    assert areas[0] <= 0.4 < 0.9 < areas[1]


def confirmed_from(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only masks of a least area pass on the views that had no part in choosing them."""

    def strict(check: Check) -> Check:
        def margins(masks: torch.Tensor, **options: bool) -> torch.Tensor:
            large = masks.flatten(1).float().mean(1) >= least
            return torch.where(large, Check.margins(wider, masks, **options), -1.0)

        wider = widened(check)
        monkeypatch.setattr(wider, "margins", margins)
        monkeypatch.setattr(wider, "fixed", check.fixed)  # these did choose them
        return wider

    widened = Check.widened
    monkeypatch.setattr(Check, "widened", strict)


@pytest.mark.parametrize("factor", [1.15, 3.0])
def test_what_is_not_confirmed_is_trained_on_at_a_larger_area(
    detector: expcam.Classifier, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ConstrainedRecipe(trailing=(0.0, 0.0), below=(2.0, 2.0), most_passes=0)
    area = float(solved(detector, recipe).mask.float().mean())
    confirmed_from(factor * area, monkeypatch)
    larger = float(solved(detector, recipe).mask.float().mean())
    if factor < recipe.enlarged:
        assert larger == pytest.approx(recipe.enlarged * area, rel=0.02)
    else:  # what nothing nearby confirms stays about as large
        assert larger <= ending.MOST_ENLARGED * area


@pytest.mark.parametrize("larger", [True, False])
@pytest.mark.parametrize("objective", ["sufficient", "robust"])
def test_what_held_up_to_rounding_alone_is_not_returned(
    detector: expcam.Classifier, objective: str, larger: bool
) -> None:
    square = (red_square()[0] > 0).float()
    corner = torch.zeros_like(square)
    corner[-2:, :2] = 1.0  # without any of the square
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, ConstrainedRecipe(), Task(objective, None, seed=0))
        one_step(search)
        search._masks.found = [
            Candidate(float(ranks.mean()), ranks, 1.0)
            for ranks in ([square, corner] if larger else [corner])
        ]
        mask = search.solution().mask
        label = int(detector.logits((mask * problem.x)[None]).argmax())
    assert label == 1
    if larger:
        assert mask.float().mean() <= square.mean()


@pytest.mark.parametrize(("most_passes", "all_tried"), [(1000.0, True), (0.0, False)])
def test_confirmation_stops_when_the_passes_are_taken(
    detector: expcam.Classifier,
    most_passes: float,
    all_tried: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counted(check: Check, mask: torch.Tensor, demanded: float) -> Check:
        tried.append(mask)
        return sparing(check, mask, demanded)

    tried: list[torch.Tensor] = []
    sparing = Check.sparing
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        recipe = ConstrainedRecipe(trailing=(0.0, 0.0), below=(2.0, 2.0), most_passes=most_passes)
        search = Search(problem, recipe, Task("robust", None, seed=0))
        for _ in range(search.steps):
            one_step(search)
        found = len(search._masks.found)
        monkeypatch.setattr(Check, "sparing", counted)
        # All that was found holds, but nothing is confirmed.
        margin = property(lambda check: 1.0 if len(check._views) == len(CHECKS) else -1.0)
        monkeypatch.setattr(Check, "margin", margin)
        search.solution()
    assert found > 1
    assert (len(tried) >= found) == all_tried
