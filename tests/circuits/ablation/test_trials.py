"""By hand on the micro network of `conftest`: of two classes the margin is a difference."""

import pytest
import torch

import expcam
from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.trials import CONTRAST, KEPT, MIXED, REMOVAL, TRIALS, Asked, Trials
from tests.circuits.blocks import COLOURS

X = COLOURS[0]
KEEP = torch.tensor([True, False, False, True])


@pytest.fixture
def trials(micro: expcam.Classifier) -> Trials:
    gates = Gates(micro.module, X)
    asked = Asked(micro, X, 1)
    return Trials(gates, asked, [X], [0 * X], {"zero": [gates.nothing()]})


def margin(trials: Trials, what: str) -> float:
    trial = trials.draw(what, "zero", torch.Generator().manual_seed(0))
    return float(trials.asked.margins(trials.logits([KEEP], [trial]).detach())[0])


def whole_margin(trials: Trials, keep: list[float]) -> float:
    gates = trials.gates
    logits = gates.logits(X[None], torch.tensor([keep]), gates.nothing())
    return float(logits.detach()[0, 1] - logits.detach()[0, 0])


def test_each_trial_by_hand(trials: Trials) -> None:
    assert margin(trials, KEPT) == pytest.approx(whole_margin(trials, [1, 0, 0, 1]))
    assert margin(trials, REMOVAL) == pytest.approx(whole_margin(trials, [0, 1, 1, 0]))
    # On black it sees something else.
    black = trials.gates.logits(0 * X[None], KEEP[None].float(), trials.gates.nothing())
    assert margin(trials, CONTRAST) == pytest.approx(float((black[0, 1] - black[0, 0]).detach()))
    assert margin(trials, CONTRAST) != margin(trials, KEPT)


def test_in_a_mixed_trial_some_of_the_others_stay(trials: Trials) -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = trials.several(MIXED, ["zero"], 40, rng)
    intact = torch.stack([each.intact for each in drawn]).float().mean()
    assert 0.4 < float(intact) < 0.6
    found = {
        round(float(trials.asked.margins(trials.logits([KEEP], [t]).detach())[0]), 3) for t in drawn
    }
    expected = {round(whole_margin(trials, [1, a, b, 1]), 3) for a in (0, 1) for b in (0, 1)}
    assert found == expected
    for what in set(TRIALS) - {MIXED}:
        assert not bool(trials.draw(what, "zero", rng).intact.any())


def test_says_is_a_positive_margin(trials: Trials) -> None:
    drawn = trials.several(KEPT, ["zero"], 3, torch.Generator().manual_seed(0))
    everything = torch.ones(4, dtype=torch.bool)
    assert trials.says(everything, drawn).tolist() == [True] * 3
    assert trials.says(~everything, drawn).tolist() == [False] * 3


def test_asked_for_another_class_inputs_that_show_it_are_left_out(
    micro: expcam.Classifier, trials: Trials
) -> None:
    red = X.clone()
    red[1:] = 0
    both = Trials(trials.gates, trials.asked, [X], [red, 0 * X], trials.references)
    other = Asked(micro, X, 0)
    said = other.said(torch.stack([red, 0 * X])).tolist()
    assert len(both.asking(other).contrast) == 2 - sum(said)


def test_a_contrast_of_two_classes(micro: expcam.Classifier) -> None:
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    assert Asked(micro, X, 1, contrast=0).margins(logits).tolist() == [-2, 2]
