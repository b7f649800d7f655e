"""On the detector: red is lost without the channels that see red, blue without those of blue."""

import dataclasses

import pytest

import expcam
from expcam.errors import OptionError
from tests.helpers import keeping_everything, keeping_red, red_square

BRIGHT = 4 * red_square()


def circuit_of(
    detector: expcam.Classifier, explanation: expcam.Explanation, channel: int
) -> expcam.Circuit:
    circuit = expcam.read_circuit(detector, explanation, coverage=1.0)
    graph = circuit.graph
    own = {("colour", channel), ("mix", channel), circuit.class_node}
    return expcam.Circuit(graph.subgraph(own).copy())


def test_each_decision_needs_its_own_circuit(detector: expcam.Classifier) -> None:
    red = keeping_red(detector, BRIGHT)
    blue = dataclasses.replace(keeping_everything(detector, BRIGHT.flip(0), 2), mask=red.mask)
    circuits = [circuit_of(detector, red, 0), circuit_of(detector, blue, 1)]
    table = expcam.dissociate(detector, circuits, [red, blue])
    assert list(table.index) == list(table.columns) == ["red", "blue"]
    # Backgrounds of noise have some of either colour, so that chance says it now and then.
    assert table.loc["red", "red"] <= 0.5
    assert table.loc["blue", "blue"] <= 0.5
    assert table.loc["red", "blue"] == table.loc["blue", "red"] == 1


def test_one_circuit_for_each_explanation(detector: expcam.Classifier) -> None:
    red = keeping_red(detector, BRIGHT)
    with pytest.raises(OptionError, match="two or more circuits, one of each explanation, not 1"):
        expcam.dissociate(detector, [circuit_of(detector, red, 0)], [red])
