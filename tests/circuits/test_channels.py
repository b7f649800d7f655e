"""What each channel does, on the block of `conftest` that is worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import expcam
from expcam.circuits.channels import FINEST, channel_facts, relevant_channels
from expcam.errors import ClassifierError, OptionError
from tests.circuits.blocks import COLOURS
from tests.helpers import RedDetector, hooks, keeping_everything, red_square


def test_what_the_class_is_without_each_channel(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0)
    facts = channel_facts(micro, [circuit], all_kept)
    assert facts.logit == pytest.approx(8, rel=1e-4)
    found = {
        (row.layer, row.channel): (row.logit, row.kept, row.instead)
        for row in facts.effects.itertuples()
    }
    # Of conv1's (2, 4) the second at 0: conv2 gives (2, -2), its norm (1, 3), the sum (3, 3).
    assert found["conv1", 1][0] == pytest.approx(0.5 * 3 + 2 * 3, rel=1e-4)
    # Of conv2's (2, -1) the second at 0: the sum is (4, 4).
    assert found["conv2", 1][0] == pytest.approx(0.5 * 4 + 2 * 4, rel=1e-4)
    assert all(kept and instead == "yes" for _, kept, instead in found.values())
    assert facts.necessary == []
    assert hooks(micro.module) == 0


def test_a_channel_without_which_the_label_is_lost() -> None:
    classifier = expcam.Classifier(
        RedDetector().eval(), transform=lambda image: red_square(),
        labels=["nothing", "red", "blue"],
    )  # fmt: skip
    whole = keeping_everything(classifier, red_square(), 1)
    circuit = expcam.read_circuit(classifier, whole)
    facts = channel_facts(classifier, [circuit], whole)
    assert facts.necessary == [("colour", 0), ("mix", 0)]
    assert facts.effects["instead"].tolist() == ["nothing", "nothing"]
    assert facts.effects["logit"].tolist() == [0, 0]


def test_a_finding_is_lost_where_its_own_logit_is_negative() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    ).eval()
    numbers = ([1.0], [0.0], [2.0, 0.0], [-1.0, -5.0])
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), numbers, strict=True):
            parameter.copy_(torch.tensor(value).view(parameter.shape))
    x = torch.ones(1, 4, 4)
    classifier = expcam.Classifier(net, labels=["wheel", "wing"], multi_label=True)
    whole = keeping_everything(classifier, x, 0)
    facts = channel_facts(classifier, [expcam.read_circuit(classifier, whole)], whole)
    # From 1 to -1: still the highest, but no finding any more.
    assert (facts.logit, facts.effects["logit"].tolist()) == (1, [-1])
    assert facts.necessary == [("0", 0)]


def test_where_a_channel_fires_in_the_photograph_and_in_the_explanation() -> None:
    classifier = expcam.Classifier(RedDetector().eval(), transform=lambda image: red_square())
    whole = keeping_everything(classifier, red_square(), 1)
    whole.mask[:, 20:] = False  # half of the square of columns 16 to 23
    circuit = expcam.read_circuit(classifier, whole)
    facts = channel_facts(classifier, [circuit], whole)
    photo, explained = facts.photo["mix", 0], facts.explanation["mix", 0]
    assert photo.shape == (16, 16)
    assert photo[2:6, 8:12] == pytest.approx(np.full((4, 4), 2.0))
    assert explained[2:6, 8:10] == pytest.approx(np.full((4, 2), 2.0))
    assert explained[:, 10:].max() == 0
    # A map of 32×32 cells is averaged down; the mean stays.
    assert facts.photo["colour", 0].shape == (FINEST, FINEST)


def test_what_has_no_map_has_an_effect_still() -> None:
    x = torch.rand(3, 8, 8)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.ReLU(), nn.Linear(5, 2)
    ).eval()
    classifier = expcam.Classifier(net, transform=lambda image: x)
    whole = keeping_everything(classifier, x, 1)
    facts = channel_facts(classifier, [expcam.read_circuit(classifier, whole)], whole)
    assert {layer for layer, _ in facts.photo} == {"0"}
    assert set(facts.effects["layer"]) == {"0", "3"}


def test_the_most_relevant_channels_of_each_layer_and_their_crops(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    facts = channel_facts(bundled, [cat_circuit], cat, most=1, images=[cat.image])
    assert facts.effects.groupby("layer").size().tolist() == [1] * (len(cat_circuit.layers) - 1)
    assert len(relevant_channels([cat_circuit, cat_circuit], 1)) == len(facts.effects)
    assert len(facts.crops) == len(facts.effects)
    for crops in facts.crops.values():
        assert crops[0].fires.shape == crops[0].picture.shape[:2]
        assert crops[0].fires.max() <= 1.001


def test_what_it_refuses(
    micro: expcam.Classifier, all_kept: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    with pytest.raises(OptionError, match="the circuit is of classifier"):
        channel_facts(micro, [cat_circuit], all_kept)
    with torch.inference_mode(), pytest.raises(ClassifierError, match="channel_facts needs"):
        channel_facts(micro, [], keeping_everything(micro, COLOURS[0], 1))
