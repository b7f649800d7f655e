import dataclasses
import json
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest

import expcam
from expcam.errors import OptionError
from expcam.graphs.exports import CSV_FILES, WRITERS, writer_for
from expcam.graphs.finding import Finding
from tests.graphs.made import made_circuit, made_curve, made_explanation, made_table


@pytest.fixture
def finding(
    cat: expcam.Explanation, cat_circuit: expcam.Circuit, cat_table: pd.DataFrame
) -> Finding:
    return Finding(explanation=cat, circuit=cat_circuit, table=cat_table)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_is_written_whole(finding: Finding, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    for _ in range(2):
        writer_for(path)(path, finding)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".json", ".graphml", ".gexf", ".csv"])
def test_what_holds_the_circuit_can_be_loaded(
    finding: Finding, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    writer_for(path)(path, finding)
    loaded = expcam.Circuit.load(path)
    assert nx.utils.graphs_equal(loaded.graph, finding.circuit.graph)


def test_what_people_use_opens_the_files(finding: Finding, tmp_path: Path) -> None:
    nodes, edges = finding.circuit.graph.number_of_nodes(), finding.circuit.graph.number_of_edges()
    for suffix, read in ((".graphml", nx.read_graphml), (".gexf", nx.read_gexf)):
        writer_for(f"c{suffix}")(tmp_path / f"c{suffix}", finding)
        graph = read(tmp_path / f"c{suffix}")
        assert (len(graph), graph.number_of_edges()) == (nodes, edges)
        assert graph.is_directed()
    writer_for("c.json")(tmp_path / "c.json", finding)
    data = json.loads((tmp_path / "c.json").read_text())
    assert (len(data["nodes"]), len(data["edges"])) == (nodes, edges)
    assert len(nx.node_link_graph(data, edges="edges")) == nodes
    writer_for("c.csv")(tmp_path / "c.csv", finding)
    assert len(pd.read_csv(tmp_path / "c.csv" / "nodes.csv")) == nodes


def test_networkx_writes_a_circuits_graph_as_it_is(finding: Finding, tmp_path: Path) -> None:
    graph = finding.circuit.graph
    nx.write_graphml(graph, tmp_path / "plain.graphml")
    read = nx.read_graphml(tmp_path / "plain.graphml")
    assert (len(read), read.number_of_edges()) == (len(graph), graph.number_of_edges())
    assert read.graph["classifier"] == graph.graph["classifier"]
    scores = nx.get_edge_attributes(read, "score").values()
    assert sorted(scores) == pytest.approx(sorted(finding.circuit.edges["score"]))


def test_tables_as_csv(finding: Finding, tmp_path: Path) -> None:
    writer_for("x.csv")(tmp_path / "x.csv", finding)
    edges = pd.read_csv(tmp_path / "x.csv" / "edges.csv")
    assert edges["score"].to_numpy() == pytest.approx(finding.circuit.edges["score"].to_numpy())
    assert len(pd.read_csv(tmp_path / "x.csv" / "methods.csv")) == len(finding.table)


def test_masks_and_what_a_match_costs_as_csv(tmp_path: Path) -> None:
    one, other = made_explanation(), dataclasses.replace(made_explanation(), area=0.25)
    more = dataclasses.replace(one, match_controls={}, necessary=False)
    finding = Finding(
        explanation=one, circuit=made_circuit(), table=made_table(), instances=[other],
        alternatives=[more], curve=made_curve(),
    )  # fmt: skip
    writer_for("x.csv")(tmp_path / "x.csv", finding)
    masks = pd.read_csv(tmp_path / "x.csv" / "masks.csv").set_index("mask")
    assert masks["area"].to_dict() == {"object 1": 0.5, "object 2": 0.25, "alternative 1": 0.5}
    assert masks["necessary"].tolist() == [True, True, False]
    assert masks.loc["object 1", ["match", "match_moved", "match_gradcam"]].tolist() == [
        0.75, 0.45, 0.6,
    ]  # fmt: skip
    assert masks.loc["alternative 1", ["match_moved", "match_gradcam"]].isna().all()
    curve = pd.read_csv(tmp_path / "x.csv" / "match_curve.csv")
    pd.testing.assert_frame_equal(curve, made_curve())
    assert {path.name for path in (tmp_path / "x.csv").iterdir()} == set(CSV_FILES)


def test_an_unknown_suffix_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"must be one of \.html, \.json"):
        writer_for("graph.bmp")
