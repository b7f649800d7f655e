import pytest
import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain import backgrounds as bg
from expcam.explain.candidates import Candidates
from expcam.explain.checks import Check
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.problem import pose
from tests.helpers import red_square


@pytest.fixture
def candidates(detector: expcam.Classifier) -> Candidates:
    with frozen(detector.module):
        problem = pose(detector, red_square(), None)
        check = Check(problem, OBJECTIVES["robust"], bg.training_rng(0))
        return Candidates(problem.allowed, check, speck=0.2)


def ranking() -> torch.Tensor:
    """The square of 64 red pixels first, then five pixels far from it, then all else."""
    ranks = (red_square()[0] > 0).float()
    ranks[28, 4:9] = 0.5
    return ranks


def test_a_mask_is_cut_without_specks_and_checked(candidates: Candidates) -> None:
    found = candidates.tried(ranking(), 69 / 1024, 0.0)
    assert torch.equal(found.mask, red_square()[0] > 0)
    assert found.area == 64 / 1024
    assert found.margin > 0
    candidates.speck = 0.0
    assert int(candidates.tried(ranking(), 69 / 1024, 0.0).mask.sum()) == 69


def test_more_lead_may_be_demanded_than_there_is(candidates: Candidates) -> None:
    enough = candidates.tried(ranking(), 64 / 1024, 0.0)
    assert candidates.tried(ranking(), 64 / 1024, 1000.0).margin < 0 < enough.margin


def test_the_best_is_the_last_that_was_found(candidates: Candidates) -> None:
    assert candidates.best is candidates.whole
    assert candidates.best.area == 1.0
    candidates.found.append(candidates.tried(ranking(), 64 / 1024, 0.0))
    assert candidates.best is candidates.found[0]


def test_further_views_are_taken_in_once(candidates: Candidates) -> None:
    narrow = candidates.check
    assert candidates.widen() is narrow
    wide = candidates.check
    assert wide is not narrow
    assert candidates.widen() is narrow
    assert candidates.check is wide
