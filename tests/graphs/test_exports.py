from pathlib import Path

import networkx as nx
import pandas as pd
import pytest

import expcam
from expcam.errors import OptionError
from expcam.graphs.exports import WRITERS, Finding, writer_for


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


@pytest.mark.parametrize(
    ("suffix", "read"), [(".graphml", nx.read_graphml), (".gexf", nx.read_gexf)]
)
def test_other_programs_read_the_graph(
    finding: Finding, suffix: str, read: object, tmp_path: Path
) -> None:
    path = tmp_path / f"out{suffix}"
    writer_for(path)(path, finding)
    graph = read(path)  # type: ignore[operator]
    (source, target, data), *_ = finding.circuit.graph.edges(data=True)
    ids = [f"{layer}:{channel}" for layer, channel in (source, target)]
    assert graph.number_of_edges() == finding.circuit.graph.number_of_edges()
    assert graph.edges[ids[0], ids[1]]["score"] == pytest.approx(data["score"])
    assert graph.nodes[ids[0]]["layer"] == source[0]


def test_tables_as_csv(finding: Finding, tmp_path: Path) -> None:
    writer_for("x.csv")(tmp_path / "x.csv", finding)
    edges = pd.read_csv(tmp_path / "x.csv" / "edges.csv")
    assert edges["score"].to_numpy() == pytest.approx(finding.circuit.edges["score"].to_numpy())
    assert len(pd.read_csv(tmp_path / "x.csv" / "methods.csv")) == len(finding.table)


def test_an_unknown_suffix_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"must be one of \.html, \.json"):
        writer_for("graph.pdf")
