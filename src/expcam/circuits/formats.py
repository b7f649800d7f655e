"""Files that hold a circuit, and the schema that all of them share.

JSON is the format of record. GraphML and GEXF are for Gephi, yEd or Cytoscape, a folder of CSV
tables for everything else. Each can be read again; all hold the
schema's attributes, JSON any others too.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from expcam.errors import FileFormatError
from expcam.files import check_writable, written_whole

Node = tuple[str, int]
"""A channel: the name of its layer, and its index there."""

FORMAT = "expcam-circuit/2"
KINDS = ("channel", "class", "input")
NODE_ATTRIBUTES: dict[str, type] = {
    **{"layer": str, "channel": int, "depth": int},
    **{"activation": float, "relevance": float, "kind": str},
}
EDGE_ATTRIBUTES: dict[str, type] = {"score": float, "signed": float}
GRAPH_ATTRIBUTES: dict[str, type] = {
    **{"classifier": str, "label": int, "label_name": str},
    **{"nodes": str, "edges": str, "granularity": str, "wiring": str},
}
EDGE_ENDS = ("source_layer", "source_channel", "target_layer", "target_channel")
CSV_FILES = ("circuit.csv", "nodes.csv", "edges.csv")
HEADER = "circuit"
"""Where a format has no place for the circuit's own attributes: they, as JSON, by this name."""


def node_table(graph: "nx.DiGraph[Node]") -> pd.DataFrame:
    """A row for each node."""
    rows = [[data[name] for name in NODE_ATTRIBUTES] for _, data in graph.nodes(data=True)]
    return pd.DataFrame(rows, columns=list(NODE_ATTRIBUTES))


def edge_table(graph: "nx.DiGraph[Node]") -> pd.DataFrame:
    """A row for each edge, with its ends."""
    rows = [
        (*source, *target, *(data[name] for name in EDGE_ATTRIBUTES))
        for source, target, data in graph.edges(data=True)
    ]
    return pd.DataFrame(rows, columns=[*EDGE_ENDS, *EDGE_ATTRIBUTES])


def as_json(graph: "nx.DiGraph[Node]") -> dict[str, Any]:
    """The graph in node-link form, with the format's name; only JSON's own types."""
    data: dict[str, Any] = nx.node_link_data(graph, edges="edges")
    return {"format": FORMAT, **data}


def write_circuit(path: str | Path, graph: "nx.DiGraph[Node]") -> None:
    """Write a circuit in the format of the path's suffix, whole or not at all.

    Raises:
        FileFormatError: No such format, or the path cannot be written; or it is a folder that
            holds other files, which would be lost.
    """
    writer = _by_suffix(path, _WRITERS)
    check_writable(path, folder=CSV_FILES if writer is _write_csv else None)
    with written_whole(path) as temporary:
        writer(temporary, graph)


def read_circuit_file(path: str | Path) -> "nx.DiGraph[Node]":
    """Read a file, or a folder of CSV tables, that was written by `write_circuit`.

    Raises:
        FileFormatError: There is none, it is of another format, or it is not a whole circuit;
            the message says what is wrong.
    """
    reader = _by_suffix(path, _READERS)
    if not Path(path).exists():
        raise FileFormatError(f"no such file: `{path}`")
    try:
        graph = reader(Path(path))
    except FileFormatError as error:
        raise FileFormatError(f"`{path}` {error}") from error
    except Exception as error:  # XML, JSON and CSV readers each raise their own
        kind = Path(path).suffix.lstrip(".").upper() or "JSON"
        raise FileFormatError(f"`{path}` is not a {kind} file of a circuit: {error}") from error
    try:
        return checked(graph)
    except FileFormatError as error:
        raise FileFormatError(f"`{path}` is not a whole circuit: {error}") from error


def checked(graph: "nx.DiGraph[Node]") -> "nx.DiGraph[Node]":
    """The graph, if it is a circuit.

    Raises:
        FileFormatError: It is not; the message names the first thing that is wrong.
    """
    _check_attributes("it", graph.graph, GRAPH_ATTRIBUTES)
    for key, data in graph.nodes(data=True):
        _check_attributes(f"node {key}", data, NODE_ATTRIBUTES)
        if key != (data["layer"], data["channel"]):
            raise FileFormatError(f"node {key} says that it is {data['layer']}:{data['channel']}")
        if data["kind"] not in KINDS:
            raise FileFormatError(f"node {key} is of kind `{data['kind']}`, not {'/'.join(KINDS)}")
    for source, target, data in graph.edges(data=True):
        _check_attributes(f"edge {source} to {target}", data, EDGE_ATTRIBUTES)
    classes = [key for key, data in graph.nodes(data=True) if data["kind"] == "class"]
    if len(classes) != 1:
        raise FileFormatError(f"it has {len(classes)} class nodes, not one")
    return graph


def _check_attributes(what: str, data: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    for name, kind in wanted.items():
        if name not in data:
            raise FileFormatError(f"{what} has no `{name}`")
        value = data[name]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or isinstance(value, bool):
            raise FileFormatError(f"{what} has {value!r} for `{name}`, not of type {kind.__name__}")
        if kind is float and not math.isfinite(value):
            raise FileFormatError(f"{what} has {value} for `{name}`")


def _write_json(path: Path, graph: "nx.DiGraph[Node]") -> None:
    path.write_text(json.dumps(as_json(graph), indent=1), encoding="utf-8")


def _read_json(path: Path) -> "nx.DiGraph[Node]":
    data = json.loads(path.read_text(encoding="utf-8"))
    _check_format(data.pop("format", None) if isinstance(data, dict) else None)
    for part in ("nodes", "edges", "graph"):
        if part not in data:
            raise FileFormatError(f"lacks the `{part}` of a circuit")
    return nx.DiGraph(nx.node_link_graph(data, edges="edges", directed=True, multigraph=False))


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise FileFormatError(f"has format {found!r}; this version reads {FORMAT!r}")


def _with_text_keys(graph: "nx.DiGraph[Node]") -> "nx.DiGraph[str]":
    """Node ids ``layer:channel``; the circuit's own attributes stand at the class."""
    text: nx.DiGraph[str] = nx.DiGraph(
        nx.relabel_nodes(graph, {key: f"{key[0]}:{key[1]}" for key in graph})
    )
    text.graph.clear()
    for _, data in text.nodes(data=True):
        if data["kind"] == "class":
            data[HEADER] = json.dumps({"format": FORMAT, **graph.graph})
    return text


def _with_own_keys(text: "nx.DiGraph[str]") -> "nx.DiGraph[Node]":
    headers = [data[HEADER] for _, data in text.nodes(data=True) if data.get(HEADER)]
    header = json.loads(headers[0]) if len(headers) == 1 else {}
    _check_format(header.pop("format", None))
    graph: nx.DiGraph[Node] = nx.DiGraph(**header)
    keys = {}
    for key, data in text.nodes(data=True):
        _check_attributes(f"node {key}", data, {"layer": str, "channel": int})
        keys[key] = (data["layer"], data["channel"])
        # Other programs add attributes of their own: positions, colours.
        graph.add_node(keys[key], **{k: data[k] for k in NODE_ATTRIBUTES if k in data})
    for source, target, data in text.edges(data=True):
        own = {k: data[k] for k in EDGE_ATTRIBUTES if k in data}
        graph.add_edge(keys[source], keys[target], **own)
    return graph


def _write_csv(path: Path, graph: "nx.DiGraph[Node]") -> None:
    path.mkdir()
    own = [(name, json.dumps(value)) for name, value in {"format": FORMAT, **graph.graph}.items()]
    header = pd.DataFrame(own, columns=["attribute", "value"])
    tables = (header, node_table(graph), edge_table(graph))
    for name, table in zip(CSV_FILES, tables, strict=True):
        table.to_csv(path / name, index=False)


def _read_csv(path: Path) -> "nx.DiGraph[Node]":
    def read(name: str) -> list[dict[str, str]]:
        if not (path / name).is_file():
            raise FileFormatError(f"has no `{name}`")
        # As text: names stay names whatever they look like, numbers keep their last digit.
        table = pd.read_csv(path / name, dtype=str, keep_default_na=False)
        rows: list[dict[str, str]] = table.to_dict("records")
        return rows

    header = {row["attribute"]: json.loads(row["value"]) for row in read("circuit.csv")}
    _check_format(header.pop("format", None))
    graph: nx.DiGraph[Node] = nx.DiGraph(**header)
    for row in read("nodes.csv"):
        data = {name: kind(row[name]) for name, kind in NODE_ATTRIBUTES.items()}
        graph.add_node((data["layer"], data["channel"]), **data)
    for row in read("edges.csv"):
        ends = [(row[f"{end}_layer"], int(row[f"{end}_channel"])) for end in ("source", "target")]
        graph.add_edge(*ends, **{name: kind(row[name]) for name, kind in EDGE_ATTRIBUTES.items()})
    return graph


def _by_suffix(path: str | Path, known: Mapping[str, Any]) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise FileFormatError(
            f"`{path}` is not a circuit's file: its suffix must be one of {', '.join(known)}"
        )
    return known[suffix]


_WRITERS: dict[str, Callable[[Path, "nx.DiGraph[Node]"], None]] = {
    ".json": _write_json,
    ".graphml": lambda path, graph: nx.write_graphml(_with_text_keys(graph), path),
    ".gexf": lambda path, graph: nx.write_gexf(_with_text_keys(graph), path),
    ".csv": _write_csv,
}
_READERS: dict[str, Callable[[Path], "nx.DiGraph[Node]"]] = {
    ".json": _read_json,
    ".graphml": lambda path: _with_own_keys(nx.DiGraph(nx.read_graphml(path))),
    ".gexf": lambda path: _with_own_keys(nx.DiGraph(nx.read_gexf(path))),
    ".csv": _read_csv,
}
