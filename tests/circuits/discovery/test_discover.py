"""On a detector of red and blue whose four channels are known, and once on a real classifier."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import expcam
from expcam.circuits.discovery.methods import METHODS
from expcam.errors import CircuitError, OptionError
from tests.helpers import RedDetector, keeping_red, red_square

RED = {("colour", 0), ("mix", 0)}


@pytest.fixture(scope="module")
def red(detector: expcam.Classifier) -> expcam.Explanation:
    return keeping_red(detector, red_square())


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    return [red_square().flip(0), torch.zeros(3, 32, 32)]


def channels(circuit: expcam.Circuit) -> set[tuple[str, int]]:
    return {key for key, data in circuit.graph.nodes(data=True) if data["kind"] == "channel"}


def test_the_channels_that_see_red_are_found(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    before = {name: value.clone() for name, value in detector.module.state_dict().items()}
    circuit = expcam.discover_circuit(detector, red, reference=photos)
    assert channels(circuit) == RED
    facts = circuit.graph.graph
    assert facts["method"] == "gates"
    assert facts["reference"] == "rest, photos"
    assert facts["size"] == 0.5
    # Nothing speaks for the classes that are not there, so that no channels are enough.
    assert facts["wrong_sizes"] == "1.000, 1.000"
    assert facts["selectivity"] == 2
    assert facts["edges_hold"]
    assert circuit.graph.has_edge(("colour", 0), ("mix", 0))
    assert circuit.graph.has_edge(("mix", 0), ("fc", 1))
    for name, value in detector.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_seed_finds_the_same(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    options = {"reference": photos, "controls": False, "seed": 0}
    first, second = (expcam.discover_circuit(detector, red, **options) for _ in range(2))
    assert channels(first) == channels(second)
    assert "selectivity" not in first.graph.graph


def test_only_channels(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    circuit = expcam.discover_circuit(
        detector, red, reference=photos, controls=False, parts=["channels"]
    )
    assert "edges_hold" not in circuit.graph.graph
    assert circuit.graph.number_of_edges() > 0


def test_a_circuit_that_is_shared_by_images(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    x = red_square().roll(8, 1)
    other = keeping_red(detector, x)
    circuit = expcam.discover_circuit(detector, [red, other], reference=photos, controls=False)
    assert circuit.graph.graph["images"] == 2
    assert channels(circuit) == RED


def test_where_nothing_small_passes_it_says_so(
    detector: expcam.Classifier, red: expcam.Explanation, photos: list[Tensor]
) -> None:
    with pytest.raises(CircuitError, match="no small set of channels carries the decision “red”"):
        expcam.discover_circuit(
            detector, red, reference=photos, method="attribution", controls=False
        )


def test_what_is_wrong_is_said_before_work(
    detector: expcam.Classifier, red: expcam.Explanation
) -> None:
    with pytest.raises(OptionError, match=f"there are: {', '.join(METHODS)}"):
        expcam.discover_circuit(detector, red, method="search")
    with pytest.raises(OptionError, match="parts are `channels`, or `channels` and `edges`"):
        expcam.discover_circuit(detector, red, parts=["edges"])
    with pytest.raises(OptionError, match="seed -1 is out of range"):
        expcam.discover_circuit(detector, red, seed=-1)
    with pytest.raises(OptionError, match="no explanation given"):
        expcam.discover_circuit(detector, [])
    blue = dataclasses.replace(red, label=2, label_name="blue")
    with pytest.raises(OptionError, match="of one class, not of blue, red"):
        expcam.discover_circuit(detector, [red, blue])
    with pytest.raises(OptionError, match=r"reference 0 is \(3, 16, 16\)"):
        expcam.discover_circuit(detector, red, reference=[torch.zeros(3, 16, 16)])
    smaller = keeping_red(detector, red_square()[:, :16])
    with pytest.raises(OptionError, match=r"explanation 1 is \(3, 16, 32\), the explained image"):
        expcam.discover_circuit(detector, [red, smaller])
    other = expcam.Classifier(RedDetector().eval(), lambda image: image, name="another")
    with pytest.raises(OptionError, match="is of classifier `detector`"):
        expcam.discover_circuit(other, red)


def test_no_decision_no_circuit(detector: expcam.Classifier, red: expcam.Explanation) -> None:
    blank = dataclasses.replace(red, mask=np.zeros((32, 32), np.bool_))
    with pytest.raises(OptionError, match="the whole model"):
        expcam.discover_circuit(detector, blank)


def test_a_real_circuit_does_what_chance_does_not(
    bundled: expcam.Classifier, cat: expcam.Explanation
) -> None:
    circuit = expcam.discover_circuit(bundled, cat, controls=False, parts=["channels"])
    assert circuit.graph.graph["size"] < 0.9
    check = expcam.verify_circuit(bundled, circuit, [cat], sizes=[0.5], draws=1)
    claims = check.claims.set_index("claim")
    assert claims.loc["sufficient", "p"] < 0.05
    assert claims.loc["sufficient", "figure"] > claims.loc["sufficient", "control"]
    assert claims.loc["discriminating", "figure"] < claims.loc["discriminating", "control"]
