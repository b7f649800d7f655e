import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import expcam
from expcam.errors import ClassifierError
from expcam.explain.objectives import RECIPE_NAMES
from expcam.explain.recipes import RECIPES
from expcam.explain.solver import project
from tests.helpers import red_square


@given(st.integers(0, 1000), st.floats(0.001, 1), st.floats(0.01, 1))
def test_the_projection_has_just_the_area_asked_for(seed: int, area: float, width: float) -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    allowed = torch.ones_like(logits, dtype=torch.bool)
    p = project(logits, allowed, area, width)
    assert int((p > 0.5).sum()) == max(1, round(area * 256))
    assert float(p.min()) >= 0
    assert float(p.max()) <= 1


def test_equal_logits_are_split_to_the_exact_area() -> None:
    allowed = torch.ones(8, 8, dtype=torch.bool)
    p = project(torch.zeros(8, 8), allowed, 0.25, 1.0)
    assert int((p > 0.5).sum()) == 16


def test_forbidden_pixels_have_probability_zero() -> None:
    logits = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    allowed = torch.zeros(8, 8, dtype=torch.bool)
    allowed[:4] = True
    p = project(logits, allowed, 0.9, 0.1)
    assert (p[4:] == 0).all()
    assert (p[:4] > 0.5).all()


@pytest.mark.parametrize("recipe", ["constrained", "free"])
def test_the_mask_is_found_where_the_evidence_is(detector: expcam.Classifier, recipe: str) -> None:
    explanation = expcam.explain_image(detector, red_square(), recipe=recipe)
    assert explanation.label_name == "red"
    assert explanation.kept
    assert explanation.robustness >= 0.75
    inside = explanation.mask & (red_square()[0] > 0).numpy()
    # The square is 6.25 % of the image; half of its pixels would do on grey.
    assert explanation.area <= 0.0625
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
