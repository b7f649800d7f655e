"""The circuits of a page, and what is known of their channels, as data for its scripts."""

import base64
from collections.abc import Container, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage

from expcam.circuits.channels import ChannelFacts, relevant_channels
from expcam.circuits.circuit import Circuit
from expcam.circuits.comparison import compare_circuits
from expcam.circuits.features import Crop
from expcam.circuits.formats import EDGE_ATTRIBUTES, Node
from expcam.graphs.layout import RANKS, SHOWN, layer_order, ordered
from expcam.graphs.pictures import data_uri, small
from expcam.graphs.wording import channels_in

INPUTS = 12
"""The strongest inputs of each channel; the page has no others."""
EFFECT = "effect"
"""Attribute of edges, where somebody measured it: what the class's logit loses without one."""
ALIKE = 0.85
"""Channels of a layer do alike where the cosine similarity of their maps is at least this."""
CROP_SIDE = 96


def circuit_data(circuits: Mapping[str, Circuit], facts: ChannelFacts | None) -> dict[str, Any]:
    """What the page's scripts need to draw circuits and to tell of their channels.

    Args:
        circuits: By title, the one that is shown first before the others; all of one classifier
            and one class.
        facts: Of their channels, where somebody looked.

    Returns:
        Only types that JSON knows. Nodes are numbered as in ``nodes``, from top to bottom in
        each layer; edges and facts name them by that number.
    """
    several = list(circuits.values())
    layers = layer_order(several)
    nodes = _placed(several, layers)
    number = {node: place for place, node in enumerate(nodes)}
    first = {node: each for each in reversed(several) for node in each.graph}
    kinds = [first[node].graph.nodes[node]["kind"] for node in nodes]
    return {
        "layers": layers,
        "nodes": [
            [layers.index(layer), channel, kind]
            for (layer, channel), kind in zip(nodes, kinds, strict=True)
        ],
        "circuits": [_circuit(title, each, number) for title, each in circuits.items()],
        "differences": _differences(several),
        **({} if facts is None else _facts(facts, number)),
    }


def _placed(circuits: Sequence[Circuit], layers: Sequence[str]) -> list[Node]:
    """The nodes that are shown, by layer, in an order in which few edges cross."""
    shown = set(relevant_channels(circuits, SHOWN))
    shown |= {n for c in circuits for n, d in c.graph.nodes(data=True) if d["kind"] != "channel"}
    merged = circuits[0].graph.__class__()
    for each in circuits:
        merged.add_nodes_from((n, d) for n, d in each.graph.nodes(data=True) if n in shown)
    rows = [
        (source, target, data["score"])
        for each in circuits
        for source, target, data in _strongest(each, shown, RANKS[1])
    ]
    order = ordered(merged, layers, pd.DataFrame(rows, columns=["source", "target", "score"]))
    return [node for layer in layers for node in order[layer]]


def _strongest(
    circuit: Circuit, shown: Container[Node], most: int = INPUTS
) -> list[tuple[Node, Node, dict[str, Any]]]:
    """The strongest inputs of each node that is shown, among those that are."""
    rows = []
    for target in circuit.graph:
        if target in shown:
            incoming = [e for e in circuit.graph.in_edges(target, data=True) if e[0] in shown]
            incoming.sort(key=lambda edge: -edge[2]["score"])
            rows += incoming[: None if target == circuit.class_node else most]
    return rows


def _circuit(title: str, circuit: Circuit, number: Mapping[Node, int]) -> dict[str, Any]:
    table = circuit.nodes
    table["rank"] = table.groupby("layer")["relevance"].rank(ascending=False, method="first")
    edges = _strongest(circuit, number)
    measured = bool(edges) and all(EFFECT in data for *_, data in edges)
    quantities = [*EDGE_ATTRIBUTES, EFFECT] if measured else list(EDGE_ATTRIBUTES)
    return {
        "title": title,
        "graph": circuit.graph.graph,
        "size": [channels_in(circuit), circuit.graph.number_of_edges()],
        "quantities": quantities,
        "depths": dict(zip(table["layer"], table["depth"].astype(int).tolist(), strict=True)),
        "nodes": [
            [
                number[row.layer, row.channel],
                _short(row.activation),
                _short(row.relevance),
                int(row.rank),
                _short(circuit.graph.in_degree((row.layer, row.channel), weight="score")),
            ]
            for row in table.itertuples()
            if (row.layer, row.channel) in number
        ],
        "edges": [
            [number[source], number[target], *(_short(data[name]) for name in quantities)]
            for source, target, data in edges
        ],
    }


def _differences(circuits: Sequence[Circuit]) -> list[list[float]]:
    """How much each two circuits share: their places, and the Jaccard indices."""
    rows = []
    for (i, first), (j, second) in combinations(enumerate(circuits), 2):
        found = compare_circuits(first, second)
        rows.append([i, j, _short(found.node_jaccard), _short(found.edge_jaccard)])
    return rows


def _facts(facts: ChannelFacts, number: Mapping[Node, int]) -> dict[str, Any]:
    return {
        "logit": _short(facts.logit),
        "effects": {
            number[row.layer, row.channel]: [_short(row.logit), bool(row.kept), row.instead]
            for row in facts.effects.itertuples()
            if (row.layer, row.channel) in number
        },
        "maps": {
            number[node]: _map(facts.photo[node], facts.explanation[node])
            for node in facts.photo
            if node in number
        },
        "alike": [[number[node] for node in group] for group in _alike(facts, number)],
        "crops": {
            number[node]: [
                [data_uri(seen(crop)), crop.image, _short(crop.activation)] for crop in crops
            ]
            for node, crops in facts.crops.items()
            if node in number
        },
    }


def seen(crop: Crop) -> npt.NDArray[np.uint8]:
    """A crop, small, dim where the channel fires less than half as strongly as at its best."""
    dim = np.where(crop.fires[:, :, None] >= 0.5, 1.0, 0.35)
    return small((crop.picture * dim).astype(np.uint8), CROP_SIDE)


def _alike(facts: ChannelFacts, shown: Mapping[Node, int]) -> list[list[Node]]:
    """Groups of at least two channels of a layer that fire at the same places."""
    by_layer: dict[str, list[Node]] = {}
    for node in shown:
        fires = facts.photo.get(node)
        if fires is not None and np.abs(fires).sum() > 0:
            by_layer.setdefault(node[0], []).append(node)
    groups = []
    for nodes in by_layer.values():
        if len(nodes) > 1:
            maps = np.stack([facts.photo[node].ravel() for node in nodes])
            tree = linkage(maps, "average", metric="cosine")
            labels = fcluster(np.clip(tree, 0, None), 1 - ALIKE, "distance")
            for label in np.unique(labels):
                members = [n for n, own in zip(nodes, labels, strict=True) if own == label]
                if len(members) > 1:
                    groups.append(members)
    return groups


def _map(photo: npt.NDArray[np.float32], explanation: npt.NDArray[np.float32]) -> list[Any]:
    """Two maps as bytes on one scale: height, width, lowest, highest, and both in base64."""
    low, high = (float(f([photo, explanation])) for f in (np.min, np.max))
    span = high - low or 1.0
    levels = [
        base64.b64encode(((each - low) / span * 255).round().astype(np.uint8).tobytes()).decode()
        for each in (photo, explanation)
    ]
    return [*photo.shape, _short(low), _short(high), *levels]


def _short(value: float) -> float:
    """Four digits are more than anybody reads."""
    return float(f"{value:.4g}")
