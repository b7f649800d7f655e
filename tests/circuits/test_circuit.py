import json
from pathlib import Path

import networkx as nx
import pytest

import expcam
from expcam.errors import FileFormatError


def test_tables_of_a_real_circuit(cat_circuit: expcam.Circuit) -> None:
    assert len(cat_circuit.nodes) == cat_circuit.graph.number_of_nodes()
    assert len(cat_circuit.edges) == cat_circuit.graph.number_of_edges()
    assert list(cat_circuit.edges.columns[-2:]) == ["score", "signed"]
    # |signed| is a sum over the kernel with signs, score one without: the second bounds the
    # first where nothing lies between source and target but the kernel and the border.
    assert (cat_circuit.edges["score"] >= 0).all()


def test_saved_and_loaded_it_is_the_same(cat_circuit: expcam.Circuit, tmp_path: Path) -> None:
    cat_circuit.save(tmp_path / "c.json")
    loaded = expcam.Circuit.load(tmp_path / "c.json")
    assert nx.utils.graphs_equal(loaded.graph, cat_circuit.graph)
    assert loaded.graph.graph == cat_circuit.graph.graph
    assert loaded.class_node == cat_circuit.class_node
    assert loaded.nodes.equals(cat_circuit.nodes)


def test_files_that_are_no_circuits(cat_circuit: expcam.Circuit, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(FileFormatError, match="no such file"):
        expcam.Circuit.load(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="not a JSON file"):
        expcam.Circuit.load(path)
    for content in ("[]", '{"format": "expcam-circuit/9"}'):
        path.write_text(content)
        with pytest.raises(FileFormatError, match="this version reads 'expcam-circuit/1'"):
            expcam.Circuit.load(path)
    data = cat_circuit.to_dict()
    del data["nodes"][3]["activation"]
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="has no `activation`"):
        expcam.Circuit.load(path)
    del data["edges"]
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match="lacks 'edges' of a circuit"):
        expcam.Circuit.load(path)
