import expcam
from expcam.graphs.layout import RANKS, lay_out


def test_layers_stand_from_left_to_right_and_no_two_nodes_in_one_place(
    cat_circuit: expcam.Circuit,
) -> None:
    layout = lay_out(cat_circuit)
    assert layout.columns == cat_circuit.layers
    assert len(set(layout.positions.values())) == cat_circuit.graph.number_of_nodes()
    for (layer, _), (x, y) in layout.positions.items():
        assert layout.columns[int(x)] == layer
        assert -1.0001 <= y <= 1.0001
    heights: dict[float, list[float]] = {}
    for x, y in layout.positions.values():
        heights.setdefault(x, []).append(y)
    gaps = [
        b - a for ys in heights.values() for a, b in zip(sorted(ys), sorted(ys)[1:], strict=False)
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
