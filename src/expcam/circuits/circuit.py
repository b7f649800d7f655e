"""A circuit as a graph, its tables and its file."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
import pandas as pd

from expcam.errors import FileFormatError
from expcam.files import written_whole

Node = tuple[str, int]
"""A channel: the name of its layer, and its index there."""

FORMAT = "expcam-circuit/1"
NODE_COLUMNS = ("layer", "channel", "depth", "activation", "relevance", "kind")
EDGE_COLUMNS = (
    *("source_layer", "source_channel", "target_layer", "target_channel"),
    *("score", "signed"),
)


@dataclass(frozen=True, eq=False)
class Circuit:
    """The channels that carried a decision, and how strongly each feeds the next.

    Attributes:
        graph: A ``networkx.DiGraph``. Node keys are ``(layer name, channel index)``; node
            attributes ``layer``, ``channel``, ``depth`` (order of execution of the layer),
            ``activation`` (mean over space of the absolute activation), ``relevance`` (absolute
            mean over space of gradient × activation) and ``kind`` (``channel``, ``class`` or
            ``input``). Edge attributes ``score`` (‖W‖₁ × activation of the source) and
            ``signed`` (what the source adds to the target's mean preactivation on this image).
            Graph attributes ``classifier``, ``label``, ``label_name``, ``source``, ``coverage``,
            ``top_k``.
    """

    graph: "nx.DiGraph[tuple[str, int]]"

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """One row per node: layer, channel, depth, activation, relevance, kind."""
        rows = [attributes for _, attributes in self.graph.nodes(data=True)]
        return pd.DataFrame(rows, columns=list(NODE_COLUMNS))

    @cached_property
    def edges(self) -> pd.DataFrame:
        """One row per edge: source and target layer and channel, score, signed."""
        rows = [
            (*source, *target, attributes["score"], attributes["signed"])
            for source, target, attributes in self.graph.edges(data=True)
        ]
        return pd.DataFrame(rows, columns=list(EDGE_COLUMNS))

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order of execution."""
        order = {data["layer"]: data["depth"] for _, data in self.graph.nodes(data=True)}
        return sorted(order, key=order.__getitem__)

    @property
    def class_node(self) -> tuple[str, int]:
        """Key of the class that the circuit ends in."""
        return next(key for key, data in self.graph.nodes(data=True) if data["kind"] == "class")

    def to_dict(self) -> dict[str, Any]:
        """The graph in node-link form, with the format's name; only JSON's own types."""
        data: dict[str, Any] = nx.node_link_data(self.graph, edges="edges")
        return {"format": FORMAT, **data}

    def save(self, path: str | Path) -> None:
        """Write the graph as JSON (node-link form), whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Read a file written by `save`.

        Raises:
            FileFormatError: No such file, not JSON, or not a circuit of this format; the message
                says which.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileFormatError(f"no such file: `{path}`") from None
        except (OSError, ValueError) as error:
            raise FileFormatError(f"`{path}` is not a JSON file: {error}") from error
        found = data.pop("format", None) if isinstance(data, dict) else None
        if found != FORMAT:
            raise FileFormatError(f"`{path}` has format {found!r}; this version reads {FORMAT!r}")
        try:
            graph = nx.node_link_graph(data, edges="edges", directed=True, multigraph=False)
        except (KeyError, TypeError, nx.NetworkXError) as error:
            raise FileFormatError(f"`{path}` lacks {error} of a circuit") from error
        missing = [
            f"node {key} has no `{name}`"
            for key, attributes in graph.nodes(data=True)
            for name in NODE_COLUMNS
            if name not in attributes
        ]
        if missing:
            raise FileFormatError(f"`{path}` is not a whole circuit: {missing[0]}")
        return cls(nx.DiGraph(graph))
