import base64
import json

import numpy as np
import pytest

import expcam
from expcam.circuits.formats import Node
from expcam.graphs.layout import SHOWN
from expcam.graphs.page.channels import EFFECT, INPUTS, circuit_data, seen
from tests.graphs.made import EDGES, large_circuit, made_circuit, made_facts


def keys(data: dict[str, object]) -> list[Node]:
    layers, nodes = data["layers"], data["nodes"]
    return [(layers[layer], channel) for layer, channel, _ in nodes]  # type: ignore[index, attr-defined]


def test_every_node_and_edge_stands_in_the_data() -> None:
    data = circuit_data({"one": made_circuit()}, None)
    json.dumps(data, allow_nan=False)
    assert data["layers"] == ["stem", "mid", "late", "fc"]
    (circuit,) = data["circuits"]
    found = {(keys(data)[s], keys(data)[t], score, sign) for s, t, score, sign in circuit["edges"]}
    assert found == set(EDGES)
    late = keys(data).index(("late", 7))
    assert next(row for row in circuit["nodes"] if row[0] == late) == [late, 8.0, 4.0, 1, 10.0]
    assert "maps" not in data


def test_circuits_of_different_layers_share_the_order_of_execution() -> None:
    first = made_circuit(without=(("mid", 4), ("mid", 5)))
    second = made_circuit(without=(("stem", 0), ("stem", 1), ("stem", 2)))
    data = circuit_data({"first": first, "second": second}, None)
    assert data["layers"] == ["stem", "mid", "late", "fc"]
    assert [len(each["nodes"]) for each in data["circuits"]] == [6, 5]
    # late 7, late 8 of stem 0 to 2, mid 4 and 5 besides: two of seven.
    assert data["differences"][0][:3] == [0, 1, pytest.approx(2 / 7, abs=1e-4)]


def test_an_effect_of_edges_is_a_quantity_where_all_have_one() -> None:
    circuit = made_circuit()
    for _, _, data in circuit.graph.edges(data=True):
        data[EFFECT] = 0.5
    (found,) = circuit_data({"one": circuit}, None)["circuits"]
    assert found["quantities"] == ["score", "signed", EFFECT]
    assert all(row[4] == 0.5 for row in found["edges"])
    del circuit.graph.edges[EDGES[0][:2]][EFFECT]
    (found,) = circuit_data({"one": circuit}, None)["circuits"]
    assert found["quantities"] == ["score", "signed"]


def test_facts_stand_beside_their_channels() -> None:
    data = circuit_data({"one": made_circuit()}, made_facts())
    json.dumps(data, allow_nan=False)
    late = keys(data).index(("late", 7))
    assert data["effects"][late] == [1.0, False, "blue"]
    assert data["logit"] == 5
    height, width, low, high, photo, _ = data["maps"][late]
    assert (height, width, low, high) == (4, 4, -1, 1)
    levels = np.frombuffer(base64.b64decode(photo), np.uint8)
    assert levels[0] == 0
    assert levels[-1] == 255
    alike = [{keys(data)[node] for node in group} for group in data["alike"]]
    assert alike == [{("stem", 0), ("stem", 2)}]
    ((uri, image, activation),) = data["crops"][late]
    assert uri.startswith("data:image/jpeg")
    assert (image, activation) == (3, 2.0)


def test_a_crop_is_dim_where_the_channel_does_not_fire() -> None:
    (crop,) = made_facts().crops["late", 7]
    crop.fires[:, :4] = 0.2
    assert seen(crop)[0, 0].tolist() == [70, 70, 70]
    assert seen(crop)[0, -1].tolist() == [200, 200, 200]


def test_a_large_circuit_is_cut_to_what_can_be_read() -> None:
    circuit = large_circuit()
    data = circuit_data({"one": circuit}, None)
    (found,) = data["circuits"]
    assert sum(layer == "mid" for layer, _ in keys(data)) == SHOWN
    late = keys(data).index(("late", 8))
    assert sum(target == late for _, target, *_ in found["edges"]) == INPUTS
    # What is left out counts in the sum that shares are of.
    total = circuit.graph.in_degree(("late", 8), weight="score")
    assert next(row for row in found["nodes"] if row[0] == late)[4] == pytest.approx(
        total, rel=1e-3
    )
    assert found["size"] == [47, 50]


def test_of_a_real_circuit(cat_circuit: expcam.Circuit) -> None:
    data = circuit_data({"one": cat_circuit}, None)
    assert len(data["nodes"]) == cat_circuit.graph.number_of_nodes()
    assert len(json.dumps(data)) < 300_000
