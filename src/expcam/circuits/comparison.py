"""Several circuits: what they share and where they differ; and the strongest paths of one."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import networkx as nx
import pandas as pd

from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import EDGE_ENDS, Node
from expcam.errors import OptionError

START = ("start", -1)
"""Stands before every node without a source while paths are searched."""


@dataclass(frozen=True, eq=False)
class CircuitDifference:
    """Where two circuits differ.

    Attributes:
        nodes: One row per node of either: ``layer``, ``channel``, ``kind``, its relevance in the
            first and in the second circuit (0 where it is not in it), and ``in_first`` and
            ``in_second``.
        edges: One row per edge of either: its ends, the score in the first and in the second
            circuit, each as a share of the circuit's summed score, and their difference; the
            largest difference first.
        node_jaccard: Nodes of both over nodes of either, those of the classes left out.
        edge_jaccard: The same of edges, weighted: the sum over edges of the smaller of the two
            shares over that of the larger.
    """

    nodes: pd.DataFrame
    edges: pd.DataFrame
    node_jaccard: float
    edge_jaccard: float


def compare_circuits(first: Circuit, second: Circuit) -> CircuitDifference:
    """Compare two circuits of a classifier.

    Of two classes; of an explanation and of the whole image (what the background carried); of
    two seeds.

    Args:
        first: A circuit.
        second: Another of the same classifier.

    Raises:
        OptionError: They are of different classifiers.
    """
    _check_alike([first, second])
    keys = list(dict.fromkeys([*first.graph, *second.graph]))
    nodes = pd.DataFrame(
        [
            {
                "layer": key[0],
                "channel": key[1],
                "kind": (first.graph if key in first.graph else second.graph).nodes[key]["kind"],
                "first": _relevance(first, key),
                "second": _relevance(second, key),
                "in_first": key in first.graph,
                "in_second": key in second.graph,
            }
            for key in keys
        ]
    )
    hidden = nodes[nodes["kind"] != "class"]
    both = int((hidden["in_first"] & hidden["in_second"]).sum())
    shares = [_shares(each) for each in (first, second)]
    edges = pd.DataFrame(
        [
            (*source, *target, *(each.get((source, target), 0.0) for each in shares))
            for source, target in dict.fromkeys([*shares[0], *shares[1]])
        ],
        columns=[*EDGE_ENDS, "first", "second"],
    )
    edges["difference"] = edges["first"] - edges["second"]
    order = edges["difference"].abs().sort_values(ascending=False, kind="stable").index
    larger = edges[["first", "second"]].max(axis=1).sum()
    smaller = edges[["first", "second"]].min(axis=1).sum()
    return CircuitDifference(
        nodes=nodes,
        edges=edges.loc[order].reset_index(drop=True),
        node_jaccard=both / len(hidden) if len(hidden) else 1.0,
        edge_jaccard=float(smaller / larger) if larger else 1.0,
    )


def stability(circuits: Sequence[Circuit]) -> pd.DataFrame:
    """How much the circuits of one image agree, over seeds or draws: Jaccard indices of each pair.

    Args:
        circuits: At least two of one classifier.

    Returns:
        A row for each pair: ``first``, ``second`` (places in the sequence), ``nodes`` and
        ``edges`` (see `CircuitDifference`).

    Raises:
        OptionError: Fewer than two, or of different classifiers.
    """
    if len(circuits) < 2:
        raise OptionError("stability is of at least two circuits")
    rows = []
    for (i, first), (j, second) in combinations(enumerate(circuits), 2):
        found = compare_circuits(first, second)
        rows.append((i, j, found.node_jaccard, found.edge_jaccard))
    return pd.DataFrame(rows, columns=["first", "second", "nodes", "edges"])


def common_circuit(circuits: Sequence[Circuit], *, share: float = 0.5) -> Circuit:
    """What many images of one class have in common.

    Args:
        circuits: Of one classifier and one class.
        share: A node or an edge stays that is in at least this share of them, in ``(0, 1]``.

    Returns:
        Their attributes are means over the circuits that they are in; each node and edge has a
        further attribute ``share``.

    Raises:
        OptionError: None, or not of one classifier and one class, or ``share`` out of range.
    """
    if not circuits:
        raise OptionError("no circuits given")
    if not 0 < share <= 1:
        raise OptionError(f"share {share} is out of range: above 0, at most 1")
    _check_alike(circuits)
    if len({each.class_node for each in circuits}) > 1:
        raise OptionError("the circuits are of different classes; compare_circuits tells two apart")
    wanted = share * len(circuits) - 1e-9
    first = circuits[0].graph.graph
    graph: nx.DiGraph[Node] = nx.DiGraph(**{**first, "source": f"{len(circuits)} images"})
    counts = Counter(node for each in circuits for node in each.graph)
    # In the order of execution, whichever circuit they are in.
    depths = {n: d["depth"] for each in circuits for n, d in each.graph.nodes(data=True)}
    order = sorted((n for n in counts if counts[n] >= wanted), key=lambda n: depths[n])
    layers = list(dict.fromkeys(layer for layer, _ in order))
    for node in order:
        found = [each.graph.nodes[node] for each in circuits if node in each.graph]
        graph.add_node(
            node,
            **{**found[0], "depth": layers.index(node[0])},
            share=len(found) / len(circuits),
        )
        for name in ("activation", "relevance"):
            graph.nodes[node][name] = sum(data[name] for data in found) / len(found)
    edges = Counter(edge for each in circuits for edge in each.graph.edges)
    for edge, count in edges.items():
        if count < wanted or not all(end in graph for end in edge):
            continue
        found = [each.graph.edges[edge] for each in circuits if each.graph.has_edge(*edge)]
        means = {name: sum(d[name] for d in found) / count for name in ("score", "signed")}
        graph.add_edge(*edge, **means, share=count / len(circuits))
    return Circuit(graph)


def strongest_paths(circuit: Circuit, count: int = 10) -> pd.DataFrame:
    """The strongest paths from the first nodes of a circuit to its class.

    A path's strength is the product over its edges of the share that each has in the scores of
    all edges into its target: the share of the class's score that comes this way.

    Args:
        circuit: Any.
        count: How many at most.

    Returns:
        A row for each path, the strongest first: ``strength``, and ``path``, a tuple of nodes.

    Raises:
        OptionError: ``count`` is below 1.
    """
    if count < 1:
        raise OptionError(f"count {count} is out of range: at least 1")
    costs: nx.DiGraph[Node] = nx.DiGraph()
    for node in circuit.graph:
        incoming: list[tuple[Node, Node, float]] = list(circuit.graph.in_edges(node, data="score"))
        total = sum(score for *_, score in incoming)
        for source, _, score in incoming:
            if score > 0:
                costs.add_edge(source, node, cost=-math.log(score / total))
        if not total:
            costs.add_edge(START, node, cost=0.0)
    end = circuit.class_node
    rows = []
    if costs.has_node(START) and nx.has_path(costs, START, end):
        for path in islice(nx.shortest_simple_paths(costs, START, end, weight="cost"), count):
            cost = nx.path_weight(costs, path, "cost")
            rows.append((math.exp(-cost), tuple(path[1:])))
    return pd.DataFrame(rows, columns=["strength", "path"])


def _check_alike(circuits: Sequence[Circuit]) -> None:
    names = {each.graph.graph.get("classifier") for each in circuits}
    if len(names) > 1:
        raise OptionError(
            f"the circuits are of different classifiers: {', '.join(sorted(map(str, names)))}"
        )


def _relevance(circuit: Circuit, node: Node) -> float:
    return float(circuit.graph.nodes[node]["relevance"]) if node in circuit.graph else 0.0


def _shares(circuit: Circuit) -> dict[tuple[Node, Node], float]:
    """Each edge's share of the circuit's summed score."""
    scores = {(s, t): float(data["score"]) for s, t, data in circuit.graph.edges(data=True)}
    total = sum(scores.values())
    return {edge: score / total for edge, score in scores.items()} if total else scores
