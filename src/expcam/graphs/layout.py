"""Where the nodes of a circuit stand, which edges are drawn, and on which way."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np
import numpy.typing as npt
import pandas as pd

from expcam.circuits.channels import relevant_channels
from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import Node

SHOWN = 16
"""Of each layer so many channels are drawn, the most relevant: more cannot be looked at."""
SWEEPS = 12
RANKS = (1, 3, 8)
"""Edges are drawn in tiers: each channel's inputs down to these ranks, by score.

The class's inputs are all in the first tier."""
LANE = 0.07
"""Distance of the lanes in which long edges run, above and below the channels."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """A drawing of a circuit.

    Attributes:
        positions: ``(x, y)`` of each node: x is the layer's column from 0, y lies in [-1, 1].
        columns: Layer names from left to right.
        lanes: Heights of the lanes in which edges run that pass over layers, by the columns that
            they join; outside of [-1, 1].
        edges: One row per drawn edge: ``source``, ``target`` (node keys), ``score``, ``signed``,
            ``strength`` (score relative to the strongest edge into the same layer) and ``tier``
            (index into `RANKS`).
    """

    positions: dict[Node, tuple[float, float]]
    columns: list[str]
    lanes: dict[tuple[int, int], float]
    edges: pd.DataFrame

    @property
    def height(self) -> float:
        """How far from the middle the outermost lane is."""
        return max([1.0, *map(abs, self.lanes.values())])

    def curve(self, source: Node, target: Node, points: int = 12) -> tuple[Points, Points]:
        """A smooth line between two nodes, level at both ends; a long one runs in its lane."""
        (x0, y0), (x1, y1) = self.positions[source], self.positions[target]
        lane = self.lanes.get((int(x0), int(x1)))
        if lane is None:
            return _eased(x0, y0, x1, y1, points)
        up, down = (
            _eased(x0, y0, x0 + 0.9, lane, points),
            _eased(x1 - 0.9, lane, x1, y1, points),
        )
        return np.concatenate([up[0], down[0]]), np.concatenate([up[1], down[1]])


def excerpt(circuit: Circuit) -> Circuit:
    """The part of a circuit that is drawn: the most relevant channels of each layer."""
    graph = circuit.graph
    drawn = {*relevant_channels([circuit], SHOWN)}
    drawn |= {node for node, data in graph.nodes(data=True) if data["kind"] != "channel"}
    return circuit if len(drawn) == len(graph) else Circuit(graph.subgraph(drawn).copy())


def lay_out(circuit: Circuit) -> Layout:
    """Place layers from left to right, and channels so that few edges cross."""
    columns = circuit.layers
    edges = _drawn_edges(circuit)
    strong = edges.loc[edges["tier"] <= 1, ["source", "target", "score"]]
    members = ordered(circuit.graph, columns, strong)
    positions = {}
    for x, layer in enumerate(columns):
        for key, y in zip(members[layer], heights(len(members[layer])), strict=True):
            positions[key] = (float(x), y)
    places = {layer: x for x, layer in enumerate(columns)}
    pairs = [
        (places[source[0]], places[target[0]])
        for source, target in zip(edges["source"], edges["target"], strict=True)
    ]
    return Layout(positions, columns, lanes_of(pairs), edges)


def ordered(
    graph: "nx.DiGraph[Node]", columns: Sequence[str], edges: pd.DataFrame
) -> dict[str, list[Node]]:
    """The channels of each layer from top to bottom, so that few edges cross.

    Barycentre sweeps (Sugiyama et al. 1981): each channel moves to the mean height of those that
    feed it, then of those that it feeds. Of all sweeps the order with the fewest crossings stays.

    Args:
        graph: The circuit's.
        columns: Its layers from left to right.
        edges: ``source``, ``target`` and ``score`` of the strongest.
    """
    members: dict[str, list[Node]] = {layer: [] for layer in columns}
    for key in sorted(graph, key=lambda key: -graph.nodes[key]["relevance"]):
        members[key[0]].append(key)
    pulls: dict[bool, dict[Node, list[tuple[Node, float]]]] = {True: {}, False: {}}
    for source, target, score in edges.itertuples(index=False):
        pulls[True].setdefault(target, []).append((source, score))
        pulls[False].setdefault(source, []).append((target, score))
    height = {
        key: y for keys in members.values() for key, y in zip(keys, heights(len(keys)), strict=True)
    }
    best = {layer: list(keys) for layer, keys in members.items()}
    fewest = crossings(edges, columns, height)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for layer in columns if forward else reversed(columns):
            keys = members[layer]
            centre = {key: _pull(pulls[forward].get(key, []), height[key], height) for key in keys}
            keys.sort(key=lambda key: -centre[key])
            height |= zip(keys, heights(len(keys)), strict=True)
        found = crossings(edges, columns, height)
        if found < fewest:
            fewest, best = found, {layer: list(keys) for layer, keys in members.items()}
    return best


def crossings(edges: pd.DataFrame, columns: Sequence[str], height: dict[Node, float]) -> int:
    """How many pairs of edges between the same two layers cross."""
    between: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for source, target in zip(edges["source"], edges["target"], strict=True):
        between.setdefault((source[0], target[0]), []).append((height[source], height[target]))
    total = 0
    for ends in between.values():
        a, b = np.array(ends).T
        total += int(((a[:, None] - a) * (b[:, None] - b) < 0).sum()) // 2
    return total


def heights(count: int) -> list[float]:
    """Heights of so many nodes one below the other, centred; the more, the smaller the gaps."""
    gap = min(0.25, 2 / max(1, count - 1))
    return [(count - 1) / 2 * gap - place * gap for place in range(count)]


def lanes_of(pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Heights of lanes for edges that pass over columns; those that overlap have different ones.

    Edges between the same two columns share a lane: they run as one bundle. Lanes lie in turn
    above and below the channels, the longest nearest.

    Args:
        pairs: Columns of the ends of all edges.
    """
    long = {pair for pair in pairs if pair[1] - pair[0] > 1}
    taken: list[list[tuple[int, int]]] = []
    lanes = {}
    for first, last in sorted(long, key=lambda pair: (pair[0] - pair[1], pair)):
        free = (
            n for n, spans in enumerate(taken) if all(first >= b or last <= a for a, b in spans)
        )
        lane = next(free, len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append((first, last))
        lanes[first, last] = (1 if lane % 2 == 0 else -1) * (1 + LANE * (2 + lane // 2))
    return lanes


def layer_order(circuits: Sequence[Circuit]) -> list[str]:
    """The layers of several circuits of one classifier, in order of execution."""
    order: nx.DiGraph[str] = nx.DiGraph()
    for circuit in circuits:
        order.add_nodes_from(circuit.layers)
        order.add_edges_from(pairwise(circuit.layers))
    places = {layer: place for place, layer in enumerate(order)}
    return list(nx.lexicographical_topological_sort(order, key=places.__getitem__))


def _eased(x0: float, y0: float, x1: float, y1: float, points: int) -> tuple[Points, Points]:
    t = np.linspace(0, 1, points)
    return x0 + (x1 - x0) * t, y0 + (y1 - y0) * t * t * (3 - 2 * t)


def _pull(others: list[tuple[Node, float]], own: float, height: dict[Node, float]) -> float:
    """Mean height of the neighbours on one side, weighted by score; its own if it has none."""
    total = sum(score for _, score in others)
    return sum(height[key] * score for key, score in others) / total if total > 0 else own


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
