"""How many of the edges among a circuit's channels its decision needs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expcam.circuits.ablation.edges import Edges
from expcam.circuits.ablation.inputs import Subject, shuffled
from expcam.circuits.ablation.trials import Trials
from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import Node
from expcam.classifier.model import Classifier
from expcam.errors import WiringError
from expcam.progress import Progress

if TYPE_CHECKING:
    import networkx as nx

MOST_EDGES = 16
"""A circuit has at most so many edges that lead to a channel: more cannot be looked at."""
NUMBERS = (2, 4, 8, MOST_EDGES)
"""How many are tried."""
INPUTS, REFERENCES = 4, 3
"""The decision must hold on so many perturbed inputs, against the mean of so many references."""


def fewest_edges(
    classifier: Classifier,
    circuit: Circuit,
    trials: Trials,
    subjects: Sequence[Subject],
    rng: torch.Generator,
    progress: Progress,
) -> Circuit:
    """The circuit with only the strongest edges into each channel, as few as its decision needs.

    Across all other edges a channel sees its sources as on the reference ``rest``. Where even
    `MOST_EDGES` into each channel are too few, these are kept, and the graph's ``edges_hold`` is
    False; where edges cannot be cut there is no ``edges_hold``.

    Args:
        classifier: Inside `frozen`.
        circuit: With at most `MOST_EDGES` edges into each channel.
        trials: Their perturbed inputs are looked at.
        subjects: What the references are made of.
        rng: Draws these.
        progress: Called after each number that is tried.
    """
    label = trials.asked.label
    references = [shuffled(subjects[0].without(rng), rng) for _ in range(REFERENCES)]
    try:
        edges = Edges(classifier, classifier.network, trials.perturbed[0], label)
    except WiringError:
        return circuit
    seen = edges.seen_on(references)
    for place, number in enumerate(NUMBERS):
        smaller = Circuit(_strongest(circuit.graph, number))
        keep = edges.chosen(smaller)
        _for_all_classes(keep, circuit)
        logits = (edges.logits(keep, seen, x) for x in trials.perturbed[:INPUTS])
        holds = all(bool(trials.asked.says(each)) for each in logits)
        smaller.graph.graph |= {"edges_per_channel": number, "edges_hold": holds}
        progress("edges", place + 1, len(NUMBERS))
        if holds:
            break
    progress("edges", len(NUMBERS), len(NUMBERS))
    return smaller


def _strongest(graph: "nx.DiGraph[Node]", number: int) -> "nx.DiGraph[Node]":
    """A graph with only the edges of the highest score into each node."""
    smaller: nx.DiGraph[Node] = graph.copy()
    for node in graph:
        into: list[Any] = sorted(
            graph.in_edges(node, data="score"), key=lambda edge: -float(edge[2])
        )
        smaller.remove_edges_from([(source, target) for source, target, _ in into[number:]])
    return smaller


def _for_all_classes(keep: dict[str, Tensor], circuit: Circuit) -> None:
    """Let the other classes see what the circuit's class sees: they are what it is compared to."""
    layer, label = circuit.class_node
    if layer in keep:
        keep[layer][:] = keep[layer][label]
