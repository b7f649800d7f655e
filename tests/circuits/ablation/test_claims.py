"""On a detector of red and blue whose four channels are known: two see red, two see blue."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import expcam
from expcam.circuits.ablation.claims import BARS, COLUMNS, kinds_for
from tests.helpers import keeping_red, red_square

BRIGHT = 4 * red_square()
"""Brighter than noise, and than the blue of the reference photographs."""

RED = [("colour", 0), ("mix", 0)]
BLUE = [("colour", 1), ("mix", 1)]


@pytest.fixture(scope="module")
def red(detector: expcam.Classifier) -> expcam.Explanation:
    return keeping_red(detector, BRIGHT)


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    blue = red_square().flip(0)
    return [blue, blue.roll(8, 1), torch.zeros(3, 32, 32)]


def circuit_of(
    detector: expcam.Classifier, red: expcam.Explanation, nodes: list[tuple[str, int]]
) -> expcam.Circuit:
    circuit = expcam.read_circuit(detector, red, coverage=1.0)
    graph = circuit.graph
    graph.graph |= {"reference": "photos"}
    for layer, channel in nodes:
        if (layer, channel) not in graph:
            graph.add_node(
                (layer, channel), layer=layer, channel=channel, depth=0, activation=0.0,
                relevance=0.0, kind="channel",
            )  # fmt: skip
    ends = {*nodes, circuit.class_node}
    return expcam.Circuit(graph.subgraph(ends).copy())


def claims(
    detector: expcam.Classifier,
    red: expcam.Explanation,
    circuit: expcam.Circuit,
    photos: list[Tensor],
    **options: list[expcam.Circuit],
) -> pd.DataFrame:
    check = expcam.verify_circuit(
        detector, circuit, [red], reference=photos, sizes=[0.5], draws=1, **options
    )
    assert check.untested == ""
    return check.claims.set_index("claim")


def test_the_circuit_that_carries_the_decision_passes(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    own, other = circuit_of(detector, red, RED), circuit_of(detector, red, BLUE)
    own.graph.graph |= {"selectivity": 2.0, "wrong": "blue", "wrong_sizes": "1.000"}
    table = claims(detector, red, own, photos, others=[other], repeats=[own])
    assert list(table.reset_index().columns) == list(COLUMNS)
    assert set(table.index) == set(BARS)
    assert table.loc["sufficient", "figure"] == 1
    assert table.loc["undisturbed", "figure"] == 1
    assert table.loc["discriminating", "figure"] == 0
    assert table.loc["necessary", "figure"] == 1
    # Blue's channels may go; red's may not.
    assert table.loc["specific", "figure"] == 1
    assert table.loc["specific", "control"] == 0
    assert table.loc["stable", "figure"] == 1
    # Of four channels two at random are red's half of the time: chance does nearly as well.
    assert table["passes"].drop(["necessary", "equivalent"]).all()
    # Without the blue channels nothing changes: it is as sure as the whole model, never more.
    assert table.loc["equivalent", "figure"] <= 0.5
    assert table.loc["minimal", "figure"] == 1
    assert "locally minimal" in table.loc["minimal", "statement"]
    assert "blue" in table.loc["selective", "statement"]
    assert "Reference: photos." in table.loc["sufficient", "statement"]


def test_channels_of_another_class_pass_nothing(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    table = claims(detector, red, circuit_of(detector, red, BLUE), photos)
    assert table.loc["sufficient", "figure"] == 0
    assert table.loc["necessary", "figure"] == 0
    assert not table.loc[
        ["sufficient", "undisturbed", "necessary", "discriminating"], "passes"
    ].any()
    # What was not tested says so.
    for claim in ("specific", "selective", "stable"):
        assert table.loc[claim, "passes"] is None
        assert "not" in table.loc[claim, "statement"] or "No " in table.loc[claim, "statement"]


def test_the_whole_classifier_is_no_better_than_chance(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    table = claims(detector, red, circuit_of(detector, red, [*RED, *BLUE]), photos)
    # As many random channels are all channels, too: the figure is reached, the claim is not.
    assert table.loc["sufficient", "figure"] == table.loc["sufficient", "control"] == 1
    assert not table.loc["sufficient", "passes"]


def test_other_references_are_told_beside(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    check = expcam.verify_circuit(
        detector, circuit_of(detector, red, RED), [red], reference=photos, sizes=[0.5], draws=1
    )
    table = check.references.set_index("reference")
    assert set(table.index) == set(kinds_for(3))
    assert table.loc["zero", "kept"] == 1
    assert table.loc["zero", "removal"] == 0


def test_optimal_ablation_harms_least(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    # Blue's channels alone: only a constant in place of red's own can say the class.
    check = expcam.verify_circuit(
        detector, circuit_of(detector, red, BLUE), [red], reference=photos, sizes=[0.5], draws=1,
        optimal=True,
    )  # fmt: skip
    table = check.references.set_index("reference")
    assert table.loc["photos", "kept"] == 0
    assert table.loc["optimal", "kept"] > 0.5
    # It then says it of anything, which is what the contrast is for.
    assert table.loc["optimal", "contrast"] > 0.5


def test_no_decision_no_claims(detector: expcam.Classifier, red: expcam.Explanation) -> None:
    blank = dataclasses.replace(red, mask=np.zeros((32, 32), np.bool_))
    circuit = circuit_of(detector, red, RED)
    check = expcam.verify_circuit(detector, circuit, [blank], sizes=[0.5], draws=1)
    assert check.claims.empty
    assert "composites of the mask only" in check.untested


def test_kinds_need_photographs() -> None:
    assert "photos" not in kinds_for(0)
    assert "resample" not in kinds_for(1)
    assert {"photos", "resample"} <= set(kinds_for(2))
