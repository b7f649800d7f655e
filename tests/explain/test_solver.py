from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError
from expcam.explain import backgrounds as bg
from expcam.explain import solver
from expcam.explain.checks import Check
from expcam.explain.generators import FreeLogits
from expcam.explain.objectives import RECIPE_NAMES
from expcam.explain.problem import pose
from expcam.explain.recipes import RECIPES
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.solver import Search, solve_constrained
from expcam.explain.task import Task
from expcam.progress import silent
from tests.helpers import one_step, red_square, solved


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("recipe", ["constrained", "free"])
def test_the_mask_is_found_where_the_evidence_is(
    detector: expcam.Classifier, recipe: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver, "computes_in_bfloat16", lambda device: bfloat16)
    explanation = expcam.explain_image(detector, red_square(), recipe=recipe)
    assert explanation.label_name == "red"
    assert explanation.kept
    assert explanation.robustness >= 0.75
    inside = explanation.mask & (red_square()[0] > 0).numpy()
    # The square is 6.25 % of the image, which leads by little on noise; half would do on grey.
    assert explanation.area <= 0.08
    assert inside.sum() / explanation.mask.sum() > 0.7


def test_the_same_seed_gives_the_same_mask(detector: expcam.Classifier) -> None:
    torch.manual_seed(1)
    first = expcam.explain_image(detector, red_square(), seed=5)
    before = torch.random.get_rng_state()
    second = expcam.explain_image(detector, red_square(), seed=5)
    assert np.array_equal(first.mask, second.mask)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_class_that_no_mask_reaches_is_reported_as_not_kept(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square(), target="blue")
    assert explanation.label_name == "blue"
    assert not explanation.kept


class Reddish(nn.Module):
    """Says ``red`` where the mean over all pixels of red less blue is above 0.3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red = 30 * ((x[:, 0] - x[:, 2]).mean((1, 2)) - 0.3)
        return torch.stack([torch.zeros_like(red), red], 1)


def test_a_mask_is_as_large_as_it_must_be() -> None:
    # At the few per cent of most masks this label would trail by 8 logits.
    red = torch.zeros(3, 32, 32)
    red[0] = 1
    classifier = expcam.Classifier(Reddish(), lambda image: red, ["other", "red"])
    explanation = expcam.explain_image(classifier, red)
    assert explanation.holds
    assert explanation.robustness >= 0.75
    # Noise on the rest moves the lead by about one logit.
    assert 0.3 < explanation.area < 0.45
    grey = expcam.explain_image(classifier, red, objective="sufficient")
    assert 0.3 < grey.area < 0.32


def test_the_steps_look_at_every_background_and_mostly_at_the_hardest(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 32, 32)
    monkeypatch.setitem(bg.BACKGROUNDS, "zero", lambda x, rng: blue)
    seen = []
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, ConstrainedRecipe(steps=(60, 60)), Task("robust", None, seed=0))
        for _ in range(60):
            seen.append(search._steering.views)
            assert len(one_step(search)) == 2
    # Gaussian noise is looked at in every third step at least, the others in every eighth.
    steps = {
        name: sum(name in views for views in seen) for name in ("normal", "zero", "blur", "uniform")
    }
    assert steps["normal"] >= 18
    assert steps["blur"] >= 6
    assert steps["uniform"] >= 6
    assert steps["zero"] > 60 / 2


def test_two_draws_in_a_step_are_of_opposite_sign(detector: expcam.Classifier) -> None:
    pairs = []
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, ConstrainedRecipe(steps=(20, 20)), Task("robust", None, seed=0))
        for _ in range(20):
            twice = search._steering.views == ["normal", "normal"]
            # In green and blue the image is 0, so that they show the noise alone.
            first, second = one_step(search).detach()[:, 1:]
            pairs.append((twice, bool((first == -second).all() and first.abs().max() > 1)))
    assert (True, True) in pairs
    assert (False, False) in pairs
    assert all(twice == opposite for twice, opposite in pairs)


def test_beside_noise_a_fixed_background_is_seen_with_the_hard_mask_later_on(
    detector: expcam.Classifier,
) -> None:
    x, soft = torch.ones(3, 32, 32), {}
    with frozen(detector.module):
        recipe = ConstrainedRecipe(steps=(60, 60))
        search = Search(pose(detector, x, None), recipe, Task("robust", None, seed=0))
        for step in range(60):
            views = search._steering.views
            for view, composite in zip(views, one_step(search), strict=True):
                if view == "zero":  # the mean colour is 0, so that the composite is the mask
                    soft[step] = bool(((composite > 0.1) & (composite < 0.9)).any())
    assert min(soft) < 0.4 * 60 <= max(soft)
    assert soft == {step: step < 0.4 * 60 for step in soft}


@pytest.mark.parametrize(("objective", "share"), [("robust", 1.0), ("sufficient", 0.2)])
def test_the_edge_is_narrow_from_the_start_for_grey_alone(
    objective: str, share: float, detector: expcam.Classifier
) -> None:
    # Where logits fall evenly, so many ranks on either side of the edge are between on and off.
    generator = FreeLogits(32)
    with torch.no_grad():
        generator.residual.copy_(torch.linspace(1, 0, 32 * 32).view_as(generator.residual))
    problem = pose(detector, torch.ones(3, 32, 32), None)
    search = Search(problem, ConstrainedRecipe(first_area=0.2), Task(objective, None, seed=0))
    search._generator = generator
    search.propose()
    soft = (search._kept[0] > 0.05) & (search._kept[0] < 0.95)
    outside = int((soft & (search._kept[0] < 0.5)).sum())
    assert outside == pytest.approx(share * 0.2 * 32 * 32, abs=4)


def test_the_steps_never_see_the_hard_mask_for_grey_alone(detector: expcam.Classifier) -> None:
    problem = pose(detector, torch.ones(3, 32, 32), None)
    with frozen(detector.module):
        recipe = ConstrainedRecipe(steps=(10, 10))
        search = Search(problem, recipe, Task("sufficient", None, seed=0))
        for _ in range(10):
            mask = one_step(search)  # the mean colour is 0
            assert ((mask > 0.1) & (mask < 0.9)).any()


@pytest.mark.parametrize("budget", [None, 30 / 1024])
def test_specks_are_left_out_later_on_unless_the_area_is_given(
    detector: expcam.Classifier, budget: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pieces of 25 and 5 pixels, all else as low as can be.
    generator = FreeLogits(32)
    with torch.no_grad():
        generator.residual[0, 0, :5, :5] = 2.0
        generator.residual[0, 0, 20, 20:25] = 1.0
    monkeypatch.setattr(solver, "fitted", lambda *given: generator)
    recipe = ConstrainedRecipe(
        steps=(10, 10),
        binary_from=(0.4, 0.4),
        first_area=30 / 1024,
        response=(0.0, 0.0),
        speck=0.2,
        residual_rate=0.0,
    )
    seen, learns = [], []
    with frozen(detector.module):
        problem = pose(detector, torch.ones(3, 32, 32), None)
        search = Search(problem, recipe, Task("sufficient", budget, seed=0))
        for _ in range(10):
            # The mean colour is 0, so that the composite is the mask.
            mask = search.propose()[0, 0]
            assert mask[2, 2] > 0.9
            seen.append(bool(mask[20, 22] > 0.5))
            (gradient,) = torch.autograd.grad(mask[20, 22], generator.residual)
            learns.append(bool(gradient[0, 0, 20, 22] > 0))
            one_step(search)
        cut = search._masks.cut(generator.residual[0, 0].detach(), 30 / 1024) > 0.5
    late = [False] * 6 if budget is None else [True] * 6
    assert seen == [True] * 4 + late
    assert all(learns)
    assert int(cut.sum()) == (25 if budget is None else 30)


def test_specks_stay_where_no_mask_is_found_without_them(detector: expcam.Classifier) -> None:
    # 25 red pixels far apart, of which 7 are needed.
    x = torch.zeros(3, 32, 32)
    x[0, 3::6, 3::6] = 5
    areas = []
    for pinned_from in (0.65, 2.0):
        recipe = ConstrainedRecipe(
            steps=(60, 60), speck=0.2, pinned_from=pinned_from, most_passes=0
        )
        with frozen(detector.module):
            problem = pose(detector, x, None)
            task = Task("sufficient", None, seed=0)
            (found,) = solve_constrained([problem], recipe, task, silent)
        areas.append(float(found.mask.float().mean()))
    assert areas[0] < areas[1] / 2


@pytest.mark.parametrize("views", [1, 2])
def test_gradients_are_smoothed_where_a_view_is_random_and_nowhere_else(
    detector: expcam.Classifier, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, bool]] = set()
    noted = solver.respond

    def noting(problems, composites, *, smoothed, **options):  # type: ignore[no-untyped-def]
        # Where the mask is not, in the corner for one, a fixed background is grey here.
        corners = composites[0].detach()[:, :, 0, 0].abs().amax(1)
        asked.add(("noise" if bool((corners > 1e-3).any()) else "fixed", smoothed))
        return noted(problems, composites, smoothed=smoothed, **options)

    monkeypatch.setattr(solver, "respond", noting)
    recipe = ConstrainedRecipe(steps=(30, 30), views=views, first_check=1)
    solved(detector, recipe)
    assert asked == {("fixed", False), ("noise", True)}
    asked.clear()
    solved(detector, replace(recipe, smoothed_gradients=False))
    assert asked == {("fixed", False), ("noise", False)}


def test_a_draw_that_refutes_a_mask_is_looked_at_in_the_steps_that_follow(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    bluish = torch.tensor([0.0, 0.0, 0.25]).view(3, 1, 1).expand(3, 32, 32)
    failures, seen = [], []

    def margins(check: Check, masks: torch.Tensor, **options: bool) -> torch.Tensor:
        """As if the bluish draw refuted whatever is tried in the first 80 steps."""
        found = own(check, masks, **options)
        if len(seen) >= 80:
            return found
        failures.append(len(seen))
        check.counterexample = bluish
        return found.clamp(max=-1.0)

    own = Check.margins
    recipe = ConstrainedRecipe(confronted=3, trailing=(0.0, 0.0), below=(2.0, 2.0))
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, recipe, Task("robust", None, seed=0))
        monkeypatch.setattr(Check, "margins", margins)
        for _ in range(search.steps):
            # Where the mask is not, in the corner for one, the background is seen.
            corners = one_step(search).detach()[:, :, 0, 0]
            seen.append(any(torch.allclose(each, bluish[:, 0, 0], atol=1e-3) for each in corners))
    assert failures
    after = {step + k for step in failures for k in (1, 2, 3)}
    assert [step for step, looked in enumerate(seen) if looked] == sorted(after)


def test_the_last_steps_make_a_mask_lead_by_more_and_not_smaller(
    detector: expcam.Classifier,
) -> None:
    recipe = ConstrainedRecipe(trailing=(0.0, 0.0), below=(2.0, 2.0), pinned_from=0.6)
    improved = 0
    for seed in range(4):
        areas, leads = [], []
        with frozen(detector.module):
            problem = pose(detector, red_square(), None)
            search = Search(problem, recipe, Task("robust", None, seed=seed))
            for _ in range(search.steps):
                one_step(search)
                if search._steering.pinned:
                    areas.append(search._steering.area)
                    leads.append(search._masks.best.margin)
        assert len(areas) > 0.1 * search.steps
        assert len(set(areas)) == 1
        assert leads == sorted(leads)
        improved += leads[-1] > leads[0]
    assert improved >= 2


def test_the_search_ends_when_it_no_longer_improves(detector: expcam.Classifier) -> None:
    steps = []
    for patience in (5 / 190, 10.0):
        recipe = ConstrainedRecipe(patience=patience, trailing=(0.0, 0.0))
        with frozen(detector.module):
            problem = pose(detector, red_square(), None)
            search = Search(problem, recipe, Task("sufficient", None, seed=0))
            taken = 0
            while not search.finished and taken < search.steps:
                one_step(search)
                taken += 1
        steps.append(taken)
    # The first half does not count.
    assert steps == [190 // 2 + 6, 190]


def test_a_search_that_has_found_nothing_goes_on(detector: expcam.Classifier) -> None:
    out_of_reach = ConstrainedRecipe(patience=0.1, ahead=(1e9, 1e9), steps=(30, 30))
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, out_of_reach, Task("sufficient", None, seed=0))
        for _ in range(search.steps):
            assert not search.finished
            one_step(search)
        assert not search.finished


def test_operations_that_bfloat16_lacks_run_in_float32(detector: expcam.Classifier) -> None:
    class Strict(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'BFloat16'")
            logits: torch.Tensor = self.inner(x)
            return logits

    strict = expcam.Classifier(Strict(detector.module), detector.transform, detector.labels)
    half = solved(strict, ConstrainedRecipe(mixed_precision=True))
    full = solved(detector, ConstrainedRecipe(mixed_precision=False))
    assert torch.equal(half.mask, full.mask)


def test_a_classifier_without_gradient_is_refused(detector: expcam.Classifier) -> None:
    class Blind(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = self.inner(x)
            return logits

    blind = expcam.Classifier(Blind(detector.module), detector.transform)
    with pytest.raises(ClassifierError, match="gradient"):
        expcam.explain_image(blind, red_square())


def test_recipes_have_the_names_that_the_help_shows() -> None:
    assert tuple(RECIPES) == RECIPE_NAMES
