import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd
import pytest

import expcam
from expcam.circuits.formats import CSV_FILES, as_json
from expcam.errors import FileFormatError

SUFFIXES = (".json", ".graphml", ".gexf", ".csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saved_and_loaded_it_is_the_same(
    cat_circuit: expcam.Circuit, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"c{suffix}"
    cat_circuit.save(path)
    loaded = expcam.Circuit.load(path)
    # Every number to the last digit, in every format.
    assert nx.utils.graphs_equal(loaded.graph, cat_circuit.graph)
    assert loaded.graph.graph == cat_circuit.graph.graph
    assert loaded.nodes.equals(cat_circuit.nodes)
    assert loaded.class_node == cat_circuit.class_node


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_there_or_not_a_circuit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    with pytest.raises(FileFormatError, match="no such file"):
        expcam.Circuit.load(path)
    if suffix == ".csv":
        path.mkdir()
        with pytest.raises(FileFormatError, match=r"has no `circuit\.csv`"):
            expcam.Circuit.load(path)
    else:
        path.write_text("{")
        with pytest.raises(FileFormatError, match=f"not a {suffix[1:].upper()} file of a circuit"):
            expcam.Circuit.load(path)


def test_unknown_suffixes_and_versions(cat_circuit: expcam.Circuit, tmp_path: Path) -> None:
    for use in (cat_circuit.save, expcam.Circuit.load):
        with pytest.raises(FileFormatError, match=r"must be one of \.json, \.graphml, \.gexf"):
            use(tmp_path / "c.txt")
    path = tmp_path / "c.json"
    for content in ("[]", '{"format": "expcam-circuit/9"}'):
        path.write_text(content)
        with pytest.raises(FileFormatError, match="this version reads 'expcam-circuit/2'"):
            expcam.Circuit.load(path)


def _drop(data: dict[str, Any]) -> None:
    del data["nodes"][3]["activation"]


def _text_for_a_number(data: dict[str, Any]) -> None:
    data["edges"][0]["score"] = "much"


def _not_finite(data: dict[str, Any]) -> None:
    data["nodes"][0]["relevance"] = float("nan")


def _another_channel(data: dict[str, Any]) -> None:
    data["nodes"][0]["channel"] += 1


def _unknown_kind(data: dict[str, Any]) -> None:
    data["nodes"][0]["kind"] = "neuron"


def _two_classes(data: dict[str, Any]) -> None:
    data["nodes"][0]["kind"] = "class"


def _edge_to_nowhere(data: dict[str, Any]) -> None:
    data["edges"][0]["target"] = ["conv1", 9999]


def _no_label(data: dict[str, Any]) -> None:
    del data["graph"]["label"]


def _no_edges(data: dict[str, Any]) -> None:
    del data["edges"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop, "has no `activation`"),
        (_text_for_a_number, "has 'much' for `score`, not of type float"),
        (_not_finite, "has nan for `relevance`"),
        (_another_channel, "says that it is"),
        (_unknown_kind, "of kind `neuron`, not channel/class/input"),
        (_two_classes, "2 class nodes, not one"),
        (_edge_to_nowhere, r"node \('conv1', 9999\) has no `layer`"),
        (_no_label, "it has no `label`"),
        (_no_edges, "lacks the `edges` of a circuit"),
    ],
)
def test_what_is_wrong_is_said(
    cat_circuit: expcam.Circuit,
    tmp_path: Path,
    spoil: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    data = json.loads(json.dumps(as_json(cat_circuit.graph)))
    spoil(data)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=message):
        expcam.Circuit.load(path)


def test_names_that_look_like_something_else(cat_circuit: expcam.Circuit, tmp_path: Path) -> None:
    graph = nx.DiGraph(cat_circuit.graph)
    renamed = nx.relabel_nodes(graph, {key: ("nan", key[1]) for key in graph if key[0] == "conv1"})
    for key, data in renamed.nodes(data=True):
        data["layer"] = key[0]
    renamed.graph["label_name"] = 'a "quoted", <b>name</b>\n√'
    for suffix in SUFFIXES:
        path = tmp_path / f"c{suffix}"
        expcam.Circuit(renamed).save(path)
        loaded = expcam.Circuit.load(path)
        assert nx.utils.graphs_equal(loaded.graph, renamed)
        assert loaded.graph.graph == renamed.graph


def test_other_programs_read_the_tables(cat_circuit: expcam.Circuit, tmp_path: Path) -> None:
    cat_circuit.save(tmp_path / "c.csv")
    edges = pd.read_csv(tmp_path / "c.csv" / "edges.csv")
    assert edges["score"].sum() == pytest.approx(cat_circuit.edges["score"].sum())


def test_a_folder_that_holds_other_files_is_left_alone(
    cat_circuit: expcam.Circuit, tmp_path: Path
) -> None:
    folder = tmp_path / "results.csv"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(FileFormatError, match=r"results\.csv`: the folder holds `thesis\.txt`"):
        cat_circuit.save(folder)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert [each.name for each in tmp_path.iterdir()] == ["results.csv"]
    # Its own files it may replace.
    (folder / "thesis.txt").unlink()
    cat_circuit.save(folder)
    cat_circuit.save(folder)
    assert {each.name for each in folder.iterdir()} == set(CSV_FILES)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_where_a_folder_belongs_and_the_reverse(
    cat_circuit: expcam.Circuit, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".csv":
        path.write_text("mine")
    else:
        path.mkdir()
    with pytest.raises(FileFormatError, match=r"cannot write .* it is a f"):
        cat_circuit.save(path)
    assert path.read_text() == "mine" if suffix == ".csv" else path.is_dir()
