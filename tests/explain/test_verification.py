import math

import pytest
import torch
from expcam.explain.metrics import clopper_pearson, keeps, level_set, smallest_level, verify

import expcam
from expcam.explain.backgrounds import DRAWS, evaluation_backgrounds, evaluation_draws
from tests.helpers import red_square

RED, BLUE = 1, 2


def square() -> torch.Tensor:
    return red_square()[0] > 0


def test_a_level_set_has_its_area() -> None:
    attribution = torch.arange(100.0).view(10, 10)
    mask = level_set(attribution, 0.07)
    assert mask.sum() == 7
    assert mask[9, 3:].all()
    assert level_set(attribution, 0.0001).sum() == 1


def test_keeps_looks_at_every_mask_on_every_background(detector: expcam.Classifier) -> None:
    x = red_square()
    blue = torch.zeros_like(x)
    blue[2] = 2
    masks = torch.stack([square(), ~square()])
    held = keeps(detector, x, masks, torch.stack([torch.zeros_like(x), blue]), RED)
    # On blue the blue outside outweighs the red square.
    assert held.tolist() == [[True, False], [False, False]]


def test_verify_by_hand(detector: expcam.Classifier) -> None:
    found = verify(detector, red_square(), square(), RED)
    assert found.area == 64 / 1024
    assert found.kept
    assert found.necessary
    # The mean of the square's red is 2 · 64/1024, times 64 is the logit 8, against 2 and 0.
    expected = torch.tensor([2.0, 8.0, 0.0]).softmax(0)[1]
    assert found.confidence == pytest.approx(float(expected))


def test_the_smallest_level_is_the_first_that_holds(detector: expcam.Classifier) -> None:
    x = red_square()
    grey = evaluation_backgrounds(x, 0)[:1]
    level = smallest_level(detector, x, x[0], grey, RED)
    # 16 pixels give a logit of 2, a tie that argmax gives to `nothing`; 2 % is the first level
    # with more of them.
    assert level.area == 0.02
    assert level.holds
    nowhere = smallest_level(detector, x, x[0], grey, BLUE)
    assert nowhere.area == 1.0
    assert not nowhere.holds


def test_clopper_pearson_against_values_worked_out_by_hand() -> None:
    # All of n: the bound b has bⁿ = 0.05. None of n: nothing is known. One of two: (1 - b)² = 0.95.
    assert clopper_pearson(32, 32) == pytest.approx(0.05 ** (1 / 32))
    assert clopper_pearson(0, 32) == 0
    assert clopper_pearson(1, 2) == pytest.approx(1 - math.sqrt(0.95))


def test_the_draws_are_none_of_the_eight_and_repeat_with_the_seed() -> None:
    x = red_square()
    draws = evaluation_draws(x, 3)
    assert len(draws) == DRAWS
    assert torch.equal(draws, evaluation_draws(x, 3))
    assert not any(torch.equal(a, b) for a in draws for b in evaluation_backgrounds(x, 3))
    assert len(torch.unique(draws.flatten(1), dim=0)) == DRAWS
