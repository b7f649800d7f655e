"""Scores that can be worked out, on the detector of red and blue."""

import numpy as np
import pytest
import torch

import expcam
from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.inputs import Subject
from expcam.circuits.ablation.trials import Asked, Counts, Trials
from expcam.circuits.discovery.methods import (
    METHOD,
    METHODS,
    Scorer,
    Task,
    _exchanged,
    _normal,
    attribution,
    divergence,
    magnitude,
)
from tests.helpers import RedDetector, red_square


@pytest.fixture
def task() -> Task:
    classifier = expcam.Classifier(RedDetector().eval(), lambda image: image, name="detector")
    x = red_square()
    gates = Gates(classifier.network, x)
    asked = Asked(classifier, x, 1)
    rng = torch.Generator().manual_seed(0)
    subject = Subject(x, torch.from_numpy(np.asarray(x[0] > 0)))
    photos = torch.stack([x.flip(0), 0 * x])
    trials = Trials.of(gates, asked, [subject], photos, ["photos"], rng, Counts(perturbed=4))
    return Task(trials, ["photos"], False, rng, lambda *_: None)


def test_attribution_is_of_what_speaks_for_the_class(task: Task) -> None:
    score = task.trials.gates.split(attribution(task))
    assert float(score["colour"][0]) > 0
    assert float(score["mix"][0]) > 0
    assert abs(float(score["mix"][1])) < float(score["mix"][0])


def test_magnitude_has_no_sign(task: Task) -> None:
    assert bool((magnitude(task) >= 0).all())


def test_divergence_finds_the_same_channels(task: Task) -> None:
    score = task.trials.gates.split(divergence(task))
    assert float(score["mix"][0]) > abs(float(score["mix"][1]))


def test_a_class_that_is_not_said_changes_places_with_the_one_that_is() -> None:
    assert _exchanged(torch.tensor([[3.0, 1.0, 2.0]]), 1).tolist() == [[1, 3, 2]]
    assert _exchanged(torch.tensor([[3.0, 1.0, 2.0]]), 0).tolist() == [[3, 1, 2]]


def test_quantiles_keep_the_order_of_all_or_of_each_layer(task: Task) -> None:
    scores = torch.tensor([1.0, 2.0, 30.0, 40.0])
    everything = _normal(scores, task, by_layer=False)
    assert everything.argsort().tolist() == [0, 1, 2, 3]
    colour, mix = task.trials.gates.split(_normal(scores, task, by_layer=True)).values()
    torch.testing.assert_close(colour, mix)


@pytest.mark.parametrize("budgets", [False, True])
def test_a_scorer_learns_channels_or_layers(task: Task, budgets: bool) -> None:
    scorer = Scorer(torch.tensor([0.0, 1.0, 2.0, 3.0]), task, budgets=budgets)
    before = scorer().detach()
    (scorer()[0] * 2).backward()
    scorer.step(0.0)
    moved = (before - scorer().detach()).tolist()
    # The first of two channels of the first layer; with budgets the layer as a whole.
    expected = [0.1, 0.1, 0, 0] if budgets else [0.1, 0, 0, 0]
    assert moved == pytest.approx(expected, abs=1e-5)


def test_the_default_is_a_method() -> None:
    assert METHOD in METHODS
