"""A circuit as a graph, its tables and its file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import pandas as pd

from expcam.circuits.formats import Node, edge_table, node_table, read_circuit_file, write_circuit
from expcam.errors import OptionError


@dataclass(frozen=True, eq=False)
class Circuit:
    """The channels that carried a decision, and how strongly each feeds the next.

    Attributes:
        graph: A ``networkx.DiGraph``. Node keys are ``(layer name, channel index)``; node
            attributes ``layer``, ``channel``, ``depth`` (order of execution of the layer),
            ``activation`` (mean over space of the absolute activation), ``relevance`` (absolute
            mean over space of gradient × activation) and ``kind`` (``channel``, ``class`` or
            ``input``). Edge attributes ``score`` (‖W‖₁ × activation of the source, or the score
            that was asked for) and ``signed`` (what the source adds to the target's mean
            preactivation on this image). Graph attributes ``classifier``, ``label``,
            ``label_name``, ``source``, ``contrast``, ``coverage``, ``top_k``, ``nodes`` and
            ``edges`` (which scores), ``granularity``, ``wiring`` (``exact``, or why it was read
            at modules).
    """

    graph: "nx.DiGraph[Node]"

    @property
    def nodes(self) -> pd.DataFrame:
        """A new table, one row per node: layer, channel, depth, activation, relevance, kind."""
        return node_table(self.graph)

    @property
    def edges(self) -> pd.DataFrame:
        """A new table, one row per edge: source and target layer and channel, score, signed."""
        return edge_table(self.graph)

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in order of execution."""
        order = {data["layer"]: data["depth"] for _, data in self.graph.nodes(data=True)}
        return sorted(order, key=order.__getitem__)

    @property
    def class_node(self) -> Node:
        """Key of the class that the circuit ends in."""
        return next(key for key, data in self.graph.nodes(data=True) if data["kind"] == "class")

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from expcam.graphs.notebook import circuit_view

        return circuit_view(self)

    def save(self, path: str | Path) -> None:
        """Write the circuit, whole or not at all.

        Args:
            path: Its suffix picks the format: ``.json`` (node-link form), ``.graphml``,
                ``.gexf``, or ``.csv`` for a folder of tables.

        Raises:
            FileFormatError: No such format, or the path cannot be written; or a folder is there
                that holds other files than such tables.
        """
        write_circuit(path, self.graph)

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Read a file, or a folder, written by `save`.

        Raises:
            FileFormatError: There is none, or it is not a whole circuit of this version's
                schema; the message says what is wrong.
        """
        return cls(read_circuit_file(path))


def check_known(nodes: Iterable[Node], counts: Mapping[str, int]) -> None:
    """Raise `OptionError` for a node of a circuit that a classifier does not have.

    Args:
        nodes: Of the circuit.
        counts: How many channels each layer of the classifier has.
    """
    for layer, channel in nodes:
        if not 0 <= channel < counts.get(layer, 0):
            raise OptionError(f"the circuit's node {layer}:{channel} is not in this classifier")


def check_classifier(what: str, name: object, classifier: str) -> None:
    """Raise `OptionError` when an explanation or a circuit is of another classifier.

    Args:
        what: ``explanation`` or ``circuit``.
        name: The classifier that it is of; None where that is not known.
        classifier: The name of the one at hand.
    """
    if name not in (None, classifier):
        raise OptionError(
            f"the {what} is of classifier `{name}`, not of `{classifier}`; "
            "if they are the same, give it the same name"
        )
