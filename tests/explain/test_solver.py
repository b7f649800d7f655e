import numpy as np
import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError
from expcam.explain import backgrounds as bg
from expcam.explain.objectives import RECIPE_NAMES
from expcam.explain.problem import pose, respond
from expcam.explain.recipes import RECIPES
from expcam.explain.solver import ConstrainedRecipe, Search, Task
from tests.helpers import red_square


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


class Reddish(nn.Module):
    """Says ``red`` where the mean over all pixels of red less blue is above 0.3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red = 30 * ((x[:, 0] - x[:, 2]).mean((1, 2)) - 0.3)
        return torch.stack([torch.zeros_like(red), red], 1)


def test_a_mask_is_as_large_as_it_must_be() -> None:
    # The search begins to steer at 4 % of the pixels, where this label is 8 logits behind.
    red = torch.zeros(3, 32, 32)
    red[0] = 1
    classifier = expcam.Classifier(Reddish(), lambda image: red, ["other", "red"])
    explanation = expcam.explain_image(classifier, red)
    assert explanation.holds
    assert explanation.robustness >= 0.75
    # Noise on the rest moves the lead by about one logit, and a lead of one is asked for.
    assert 0.3 < explanation.area < 0.45
    grey = expcam.explain_image(classifier, red, objective="sufficient")
    assert 0.3 < grey.area < 0.32


def test_the_steps_look_at_every_background_and_mostly_at_the_hardest(
    detector: expcam.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def watched(name: str, make: bg.Background) -> bg.Background:
        def draw(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
            drawn.append(name)
            return make(x, rng)

        return draw

    blue = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 32, 32)
    hard = {**bg.BACKGROUNDS, "zero": lambda x, rng: blue}
    for name, make in hard.items():
        monkeypatch.setitem(bg.BACKGROUNDS, name, watched(name, make))
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        search = Search(problem, ConstrainedRecipe(steps=60), Task("robust", None, seed=0))
        drawn.clear()
        for _ in range(60):
            (response,) = respond([problem], [search.propose()], taps=False)
            search.judge(response).backward()
            search.learn()
    # Noise is looked at in every third step, blur in every eighth, but for checks at the end.
    steps = drawn[:40]
    assert set(steps) == {"normal", "zero", "blur"}
    assert 12 <= steps.count("normal") <= 15
    assert 5 <= steps.count("blur") <= 6
    assert steps.count("zero") > 40 / 2 - 2


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
