import networkx as nx
import pytest

import expcam
from expcam.circuits.blocks import contract
from tests.circuits.blocks import A0, A1, B0, B1, YES, circuit_of


def test_paths_through_what_is_left_out_are_summed_by_hand() -> None:
    whole = circuit_of(
        {(A0, B0): 1.0, (A1, B0): 3.0, (A0, B1): 2.0, (B0, YES): 8.0, (B1, YES): 5.0, (A1, YES): 1}
    )
    found = contract(whole, {"a"})
    # b0's 8 are shared out 1 to 3, b1's 5 all come from a0; a1 had a way of its own.
    assert {(s, t): score for s, t, score in found.graph.edges(data="score")} == {
        (A0, YES): 2 + 5,
        (A1, YES): 6 + 1,
    }
    assert found.graph.graph["granularity"] == "blocks"
    assert found.nodes["depth"].tolist() == [0, 0, 1]
    assert B0 in whole.graph  # it is left as it was


def test_signs_are_multiplied_along_the_way() -> None:
    whole = circuit_of({(A0, B0): 1.0, (A1, B0): 3.0, (B0, YES): 8.0})
    whole.graph.edges[A0, B0]["signed"] = -1.0
    whole.graph.edges[B0, YES]["signed"] = -4.0
    found = contract(whole, {"a"})
    assert found.graph.edges[A0, YES]["signed"] == -4 * -1 / 4
    assert found.graph.edges[A1, YES]["signed"] == -4 * 3 / 4


def test_blocks_of_a_real_circuit(bundled: expcam.Classifier, cat: expcam.Explanation) -> None:
    layers = expcam.read_circuit(bundled, cat)
    blocks = expcam.read_circuit(bundled, cat, granularity="blocks")
    # What is written to the residual stream stays, what is inside a block does not.
    assert set(blocks.layers) == {
        name for name in layers.layers if not name.endswith(".conv1") or name == "conv1"
    }
    assert nx.is_directed_acyclic_graph(blocks.graph)
    before, after = (
        sum(score for *_, score in each.graph.in_edges(each.class_node, data="score"))
        for each in (layers, blocks)
    )
    assert after == pytest.approx(before)
