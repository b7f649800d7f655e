import pandas as pd
import pytest

import expcam
from expcam.graphs.layout import (
    RANKS,
    crossings,
    heights,
    lanes_of,
    lay_out,
    layer_order,
    ordered,
)
from tests.graphs.made import made_circuit


def test_layers_stand_from_left_to_right_and_no_two_nodes_in_one_place(
    cat_circuit: expcam.Circuit,
) -> None:
    layout = lay_out(cat_circuit)
    assert layout.columns == cat_circuit.layers
    assert len(set(layout.positions.values())) == cat_circuit.graph.number_of_nodes()
    for (layer, _), (x, y) in layout.positions.items():
        assert layout.columns[int(x)] == layer
        assert -1.0001 <= y <= 1.0001
    columns: dict[float, list[float]] = {}
    for x, y in layout.positions.values():
        columns.setdefault(x, []).append(y)
    gaps = [
        b - a for ys in columns.values() for a, b in zip(sorted(ys), sorted(ys)[1:], strict=False)
    ]
    assert min(gaps) > 0.13  # of the 2 that the figure is high: no overlap at 16 a layer


def test_each_channel_shows_its_strongest_inputs_first(cat_circuit: expcam.Circuit) -> None:
    edges = lay_out(cat_circuit).edges
    assert edges.groupby("target").size().max() <= RANKS[-1]
    for target, rows in edges.groupby("target"):
        if target == cat_circuit.class_node:
            continue
        assert (rows["tier"] == 0).sum() == 1
        assert rows[rows["tier"] == 0]["score"].item() == rows["score"].max()
    assert edges["strength"].between(0, 1).all()


def test_crossings_are_counted_between_two_layers() -> None:
    a, b, c, d = ("x", 0), ("x", 1), ("y", 0), ("y", 1)
    height = {a: 1.0, b: -1.0, c: 1.0, d: -1.0}
    crossed = pd.DataFrame({"source": [a, b], "target": [d, c], "score": 1.0})
    straight = pd.DataFrame({"source": [a, b], "target": [c, d], "score": 1.0})
    assert crossings(crossed, ["x", "y"], height) == 1
    assert crossings(straight, ["x", "y"], height) == 0


def test_few_edges_cross() -> None:
    circuit = made_circuit()
    edges = lay_out(circuit).edges[["source", "target", "score"]]
    order = ordered(circuit.graph, circuit.layers, edges)
    height = {
        key: y for keys in order.values() for key, y in zip(keys, heights(len(keys)), strict=True)
    }
    assert crossings(edges, circuit.layers, height) == 0


def test_fewer_edges_cross_than_in_the_order_of_relevance(cat_circuit: expcam.Circuit) -> None:
    layout = lay_out(cat_circuit)
    drawn = layout.edges[layout.edges["tier"] == 0]
    height = {key: y for key, (_, y) in layout.positions.items()}
    plain: dict[str, list[tuple[str, int]]] = {}
    for key in sorted(cat_circuit.graph, key=lambda k: -cat_circuit.graph.nodes[k]["relevance"]):
        plain.setdefault(key[0], []).append(key)
    before = {
        key: y for keys in plain.values() for key, y in zip(keys, heights(len(keys)), strict=True)
    }
    assert crossings(drawn, layout.columns, height) < 0.8 * crossings(drawn, layout.columns, before)


def test_edges_that_pass_over_layers_run_in_bundles_outside() -> None:
    lanes = lanes_of([(0, 1), (0, 3), (0, 3), (1, 3), (3, 6)])
    assert set(lanes) == {(0, 3), (1, 3), (3, 6)}
    assert all(abs(lane) > 1 for lane in lanes.values())
    # The second overlaps with the first and has a lane of its own, the third begins where it ends.
    assert lanes[0, 3] == lanes[3, 6]
    assert lanes[1, 3] == -lanes[0, 3]


def test_a_long_edge_is_drawn_in_its_lane() -> None:
    layout = lay_out(made_circuit())
    xs, ys = layout.curve(("stem", 0), ("late", 7))
    assert max(abs(ys)) == pytest.approx(layout.height)
    assert (xs[0], ys[0]) == layout.positions["stem", 0]
    assert (xs[-1], ys[-1]) == layout.positions["late", 7]
    _, short = layout.curve(("stem", 0), ("mid", 4))
    assert max(abs(short)) <= 1


def test_layers_of_several_circuits_keep_the_order_of_execution() -> None:
    first = made_circuit(without=(("mid", 4), ("mid", 5)))
    second = made_circuit(without=(("stem", 0), ("stem", 1), ("stem", 2)))
    third = made_circuit(without=(("late", 7), ("late", 8)))
    assert layer_order([second, first, third]) == ["stem", "mid", "late", "fc"]
