import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain.problem import pose
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.progress import silent
from tests.helpers import red_square


def test_the_weights_are_the_published_ones() -> None:
    assert dict(PublishedRecipe().weights) == {
        "act": 10, "ce": 15, "kl": 5, "area": 100, "bin": 1, "tv": 500, "rob": 100,
    }  # fmt: skip
    assert PublishedRecipe().steps == 880
    assert PublishedRecipe().rate == 5e-5


def test_fixed_weights_shrink_the_mask(detector: expcam.Classifier) -> None:
    steps: list[int] = []
    recipe = PublishedRecipe(steps=30, rate=1e-3)
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        solution = solve_published(
            problem, recipe, 0, lambda stage, done, total: steps.append(done)
        )
        assert problem.passes.backward == 90
        again = solve_published(problem, recipe, 0, silent)
    assert steps == list(range(1, 31))
    assert solution.mask.float().mean() < 0.9
    assert torch.equal(solution.mask, again.mask)
