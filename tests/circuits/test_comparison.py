import pytest

import expcam
from expcam.circuits.comparison import (
    common_circuit,
    compare_circuits,
    stability,
    strongest_paths,
)
from expcam.circuits.formats import checked
from expcam.errors import OptionError
from tests.circuits.blocks import A0, A1, B0, B1, YES, circuit_of
from tests.helpers import EXAMPLES

FIRST = circuit_of({(A0, B0): 2.0, (A1, B0): 6.0, (B0, YES): 2.0})
SECOND = circuit_of({(A0, B0): 5.0, (A0, B1): 1.0, (B0, YES): 4.0})


def test_difference_by_hand() -> None:
    found = compare_circuits(FIRST, SECOND)
    # Of a0, a1, b0 and b1 both hold a0 and b0.
    assert found.node_jaccard == 2 / 4
    # As shares of 10: (.2, .6, .2, 0) and (.5, 0, .4, .1).
    assert found.edge_jaccard == pytest.approx((0.2 + 0.2) / (0.5 + 0.6 + 0.4 + 0.1))
    top = found.edges.iloc[0]
    assert (top["source_channel"], top["difference"]) == (1, pytest.approx(0.6))
    nodes = found.nodes.set_index(["layer", "channel"])
    assert nodes.loc[("b", 1), ["first", "second"]].tolist() == [0, 1]
    assert not nodes.loc[("b", 1), "in_first"]
    same = compare_circuits(FIRST, FIRST)
    assert (same.node_jaccard, same.edge_jaccard) == (1, 1)
    assert not same.edges["difference"].any()


def test_stability_is_of_each_pair() -> None:
    table = stability([FIRST, FIRST, SECOND])
    assert table[["first", "second"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 2]]
    assert table["nodes"].tolist() == [1, 0.5, 0.5]


def test_what_circuits_have_in_common_by_hand() -> None:
    found = common_circuit([FIRST, FIRST, SECOND], share=0.6)
    assert set(found.graph) == {A0, A1, B0, YES}
    assert found.graph.edges[A0, B0]["score"] == pytest.approx((2 + 2 + 5) / 3)
    # Means are over the circuits that have it.
    assert found.graph.edges[A1, B0] == {"score": 6, "signed": 6, "share": pytest.approx(2 / 3)}
    assert (A0, B1) not in found.graph.edges
    assert found.graph.graph["source"] == "3 images"
    checked(found.graph)


def test_strongest_paths_by_hand() -> None:
    found = strongest_paths(FIRST)
    assert found["path"].tolist() == [(A1, B0, YES), (A0, B0, YES)]
    assert found["strength"].tolist() == pytest.approx([0.75, 0.25])
    assert len(strongest_paths(FIRST, count=1)) == 1
    assert len(strongest_paths(circuit_of({}))) == 1  # the class alone


def test_what_cannot_be_compared() -> None:
    other = circuit_of({(A0, B0): 1.0}, classifier="other")
    with pytest.raises(OptionError, match="of different classifiers: other, tiny"):
        compare_circuits(FIRST, other)
    with pytest.raises(OptionError, match="of different classes"):
        common_circuit([FIRST, circuit_of({(A0, B0): 1.0}, end=("fc", 0))])
    with pytest.raises(OptionError, match="at least two"):
        stability([FIRST])
    with pytest.raises(OptionError, match="no circuits"):
        common_circuit([])
    with pytest.raises(OptionError, match="share 2 is out of range"):
        common_circuit([FIRST], share=2)
    with pytest.raises(OptionError, match="count 0 is out of range"):
        strongest_paths(FIRST, count=0)


def test_what_the_background_carried(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    whole = expcam.read_circuit(bundled, cat, whole_image=True)
    found = compare_circuits(cat_circuit, whole)
    # Much the same channels, and not quite.
    assert 0.2 < found.node_jaccard < 1
    assert 0.05 < found.edge_jaccard < 1
    coffee = expcam.explain_image(bundled, EXAMPLES / "coffee.jpg")
    other = compare_circuits(cat_circuit, expcam.read_circuit(bundled, coffee))
    # Two classes have less in common than one image with and without its background.
    assert other.edge_jaccard < found.edge_jaccard
    paths = strongest_paths(cat_circuit, count=5)
    assert len(paths) == 5
    assert paths["strength"].is_monotonic_decreasing
    assert 0 < paths["strength"].sum() < 1
