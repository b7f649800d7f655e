import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain.decision import decide
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.explain.request import Request
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
        image = detector.prepare(red_square())
        decision = decide(detector, image, Request(recipe="paper"))
        allowed = torch.ones(32, 32, dtype=torch.bool)
        allowed[:4] = False
        found = solve_published(
            decision, allowed, recipe, 0, lambda stage, done, total: steps.append(done)
        )
        again = solve_published(decision, allowed, recipe, 0, silent)
    assert steps == list(range(1, 31))
    assert found.passes == 90
    assert found.keep.float().mean() < 0.9
    assert not found.keep[:4].any()
    assert torch.equal(found.keep, again.keep)
