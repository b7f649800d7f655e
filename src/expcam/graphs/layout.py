"""Where the nodes of a circuit stand, and which edges are drawn."""

from dataclasses import dataclass

import networkx as nx
import pandas as pd

from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import Node

SWEEPS = 3
RANKS = (1, 3, 8)
"""Edges are drawn in tiers: each channel's inputs down to these ranks, by score.

The class's inputs are all in the first tier."""


@dataclass(frozen=True)
class Layout:
    """A drawing of a circuit.

    Attributes:
        positions: ``(x, y)`` of each node: x is the layer's column from 0, y lies in [-1, 1].
        columns: Layer names from left to right.
        edges: One row per drawn edge: ``source``, ``target`` (node keys), ``score``, ``signed``,
            ``strength`` (score relative to the strongest edge into the same layer) and ``tier``
            (index into `RANKS`).
    """

    positions: dict[Node, tuple[float, float]]
    columns: list[str]
    edges: pd.DataFrame


def lay_out(circuit: Circuit) -> Layout:
    """Place layers from left to right, and channels near the channels that feed them most."""
    columns = circuit.layers
    members: dict[str, list[Node]] = {layer: [] for layer in columns}
    for key in circuit.graph:
        members[key[0]].append(key)
    height: dict[Node, float] = {}
    for keys in members.values():
        keys.sort(key=lambda key: -circuit.graph.nodes[key]["relevance"])
        _spread(keys, height)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for layer in columns if forward else reversed(columns):
            centre = {key: _pull(circuit.graph, key, height, forward) for key in members[layer]}
            members[layer].sort(key=lambda key: -centre[key])
            _spread(members[layer], height)
    positions = {
        key: (float(x), height[key]) for x, layer in enumerate(columns) for key in members[layer]
    }
    return Layout(positions, columns, _drawn_edges(circuit))


def _spread(keys: list[Node], height: dict[Node, float]) -> None:
    """Place the keys one below the other, centred; the more there are, the smaller the gaps."""
    gap = min(0.25, 2 / max(1, len(keys) - 1))
    for place, key in enumerate(keys):
        height[key] = (len(keys) - 1) / 2 * gap - place * gap


def _pull(graph: "nx.DiGraph[Node]", key: Node, height: dict[Node, float], forward: bool) -> float:
    """Mean height of the neighbours on one side, weighted by score; its own if it has none."""
    edges = graph.pred[key] if forward else graph.succ[key]
    weights = [(height[other], data["score"]) for other, data in edges.items()]
    total = sum(score for _, score in weights)
    return sum(y * score for y, score in weights) / total if total > 0 else height[key]


def _drawn_edges(circuit: Circuit) -> pd.DataFrame:
    rows = []
    strongest: dict[str, float] = {}
    for target in circuit.graph:
        incoming = sorted(
            circuit.graph.in_edges(target, data=True), key=lambda edge: -edge[2]["score"]
        )
        for rank, (source, _, data) in enumerate(incoming[: RANKS[-1]], start=1):
            into_class = target == circuit.class_node
            tier = 0 if into_class else next(n for n, most in enumerate(RANKS) if rank <= most)
            strongest[target[0]] = max(strongest.get(target[0], 0.0), data["score"])
            rows.append((source, target, data["score"], data["signed"], tier))
    table = pd.DataFrame(rows, columns=["source", "target", "score", "signed", "tier"])
    best = [strongest[target[0]] or 1.0 for target in table["target"]]
    table["strength"] = table["score"] / pd.Series(best, dtype=float)
    return table
