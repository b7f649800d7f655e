import json

import pytest

import expcam
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.graphs.figures import faithfulness_figure, match_figure
from tests.graphs.made import made_curve


def test_every_channel_can_be_hovered_over(cat_circuit: expcam.Circuit) -> None:
    figure = expcam.circuit_figure(cat_circuit)
    (nodes,) = [trace for trace in figure.data if trace.name == "channels"]
    assert len(nodes.x) == cat_circuit.graph.number_of_nodes()
    assert all(
        word in nodes.hovertext[0]
        for word in ("conv1", "channel", "activation", "relevance", "score")
    )
    json.loads(figure.to_json())


def test_more_edges_on_request(cat_circuit: expcam.Circuit) -> None:
    figure = expcam.circuit_figure(cat_circuit)
    (menu,) = figure.layout.updatemenus
    shown = [sum(button.args[0]["visible"]) for button in menu.buttons]
    assert shown == sorted(set(shown))
    assert all(len(button.args[0]["visible"]) == len(figure.data) for button in menu.buttons)


def test_every_method_has_its_curve(cat_check: CircuitCheck) -> None:
    figure = faithfulness_figure(cat_check)
    names = [trace.name for trace in figure.data]
    assert names[0] == "relevance (this circuit's)"
    assert names[-1] == "the circuit itself"
    assert len(names) == cat_check.curves["method"].nunique() + 1
    assert len({trace.line.color for trace in figure.data[:-1]}) == len(names) - 1
    relevance = cat_check.curves.query("method == 'relevance'")["faithfulness"]
    assert list(figure.data[0].y) == pytest.approx(relevance.tolist())


def test_a_match_stands_beside_its_controls_at_the_same_area() -> None:
    figure = match_figure(made_curve())
    ours, elsewhere, gradcam = figure.data
    assert list(ours.x) == list(gradcam.x) == [0.5, 0.6, 0.8]
    assert list(ours.y) == [0.75, 0.81, 0.85]
    assert list(elsewhere.y) == [0.45, 0.5, 0.7]
    assert list(gradcam.y) == [0.6, 0.65, None]
    assert list(ours.text) == ["nothing", "at least 80%", "at least 90%"]
    assert list(ours.marker.symbol) == ["circle", "circle", "circle-open"]  # the last is not kept
    json.loads(figure.to_json())
