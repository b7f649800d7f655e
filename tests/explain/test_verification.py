import pytest
import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain.backgrounds import DRAWS, evaluation_backgrounds, evaluation_draws
from expcam.explain.decision import decide
from expcam.explain.request import Request
from expcam.explain.verification import keeps, verify
from tests.helpers import red_square

RED = 1


def square() -> torch.Tensor:
    return red_square()[0] > 0


def test_keeps_looks_at_every_mask_on_every_background(detector: expcam.Classifier) -> None:
    x = red_square()
    blue = torch.zeros_like(x)
    blue[2] = 2
    masks = torch.stack([square(), ~square()])
    held = keeps(detector, x, masks, torch.stack([torch.zeros_like(x), blue]), RED)
    # On blue the blue outside outweighs the red square.
    assert held.tolist() == [[True, False], [False, False]]


def test_verify_by_hand(detector: expcam.Classifier) -> None:
    with frozen(detector.module):
        decision = decide(detector, detector.prepare(red_square()), Request(target=RED))
        found = verify(decision, square())
    assert found.area == 64 / 1024
    assert found.kept
    assert found.necessary
    # The mean of the square's red is 2 · 64/1024, times 64 is the logit 8, against 2 and 0.
    expected = torch.tensor([2.0, 8.0, 0.0]).softmax(0)[1]
    assert found.confidence == pytest.approx(float(expected))
    # All of the image's red is in the square: nothing is lost. The control is moved elsewhere.
    assert found.match.last == pytest.approx(1)
    assert found.match.divergence == pytest.approx(0, abs=1e-6)
    assert set(found.match_controls) == {"moved", "gradcam"}


def test_the_draws_are_none_of_the_others_and_repeat_with_the_seed() -> None:
    x = red_square()
    draws = evaluation_draws(x, 3)
    assert len(draws) == DRAWS
    assert torch.equal(draws, evaluation_draws(x, 3))
    assert not any(torch.equal(a, b) for a in draws for b in evaluation_backgrounds(x, 3))
    assert len(torch.unique(draws.flatten(1), dim=0)) == DRAWS
