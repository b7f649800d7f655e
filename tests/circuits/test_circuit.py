import pytest

import expcam
from expcam.circuits.circuit import check_classifier, check_known
from expcam.errors import OptionError
from tests.circuits.blocks import A0, A1, B0, YES, circuit_of


def test_tables_by_hand() -> None:
    circuit = circuit_of({(A0, B0): 2.0, (B0, YES): 3.0})
    assert circuit.nodes.to_dict("records") == [
        {"layer": layer, "channel": channel, "depth": depth, "activation": 1.0,
         "relevance": float(channel), "kind": kind}
        for layer, channel, depth, kind in (
            ("a", 0, 0, "channel"), ("b", 0, 1, "channel"), ("fc", 1, 2, "class"),
        )
    ]  # fmt: skip
    assert circuit.edges.to_dict("records") == [
        {"source_layer": "a", "source_channel": 0, "target_layer": "b", "target_channel": 0,
         "score": 2.0, "signed": 2.0},
        {"source_layer": "b", "source_channel": 0, "target_layer": "fc", "target_channel": 1,
         "score": 3.0, "signed": 3.0},
    ]  # fmt: skip


def test_tables_follow_the_graph() -> None:
    circuit = circuit_of({(A0, B0): 2.0, (A1, B0): 1.0, (B0, YES): 3.0})
    assert (len(circuit.nodes), len(circuit.edges)) == (4, 3)
    circuit.graph.remove_node(A1)
    circuit.graph.edges[A0, B0]["score"] = 7.0
    assert circuit.nodes["layer"].tolist() == ["a", "b", "fc"]
    assert circuit.edges["score"].tolist() == [7.0, 3.0]
    # A table is the caller's own.
    table = circuit.nodes
    table["layer"] = "x"
    assert circuit.nodes["layer"].tolist() == circuit.layers == ["a", "b", "fc"]


def test_layers_in_order_of_execution(cat_circuit: expcam.Circuit) -> None:
    assert cat_circuit.layers[0] == "conv1"
    assert cat_circuit.layers[-1] == cat_circuit.class_node[0] == "fc"
    assert set(cat_circuit.layers) == {layer for layer, _ in cat_circuit.graph}


def test_what_a_classifier_does_not_have() -> None:
    check_known([A0, B0], {"a": 1, "b": 1})
    for node, counts in ((A1, {"a": 1}), (B0, {"a": 1}), (("a", -1), {"a": 1})):
        with pytest.raises(OptionError, match=f"node {node[0]}:{node[1]} is not in this class"):
            check_known([node], counts)


def test_whose_a_circuit_is() -> None:
    check_classifier("circuit", "resnet18", "resnet18")
    check_classifier("circuit", None, "resnet18")  # not every graph says so
    with pytest.raises(OptionError, match="the circuit is of classifier `vgg11`, not of `resnet18"):
        check_classifier("circuit", "vgg11", "resnet18")
