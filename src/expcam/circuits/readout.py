"""From an explanation's forward and backward pass to the circuit."""

import warnings
from collections.abc import Iterator, Mapping

import networkx as nx
import torch
from torch import Tensor, nn

from expcam.circuits.circuit import Circuit
from expcam.circuits.contraction import contract, where_maps_meet
from expcam.circuits.flows import INPUT
from expcam.circuits.following import follow
from expcam.circuits.formats import Node
from expcam.circuits.measuring import Selection, measure
from expcam.circuits.modules import read_modules
from expcam.circuits.names import EDGE_SCORE, GRANULARITIES, NODE_SCORE, TOP_K
from expcam.circuits.reading import Contribution
from expcam.circuits.scores import (
    EDGE_SCORES,
    NEED_GRADIENT,
    NODE_SCORES,
    Channels,
    EdgeScore,
    score_name,
)
from expcam.classifier.frozen import frozen
from expcam.classifier.model import IMAGENET_MEAN, Classifier
from expcam.errors import ExpcamWarning, OptionError, WiringError
from expcam.explain.explanation import Explanation

COVERAGE = 0.9


def read_circuit(
    classifier: Classifier,
    explanation: Explanation,
    *,
    coverage: float = COVERAGE,
    top_k: int = TOP_K,
    include_input: bool = False,
    nodes: str = NODE_SCORE,
    edges: str = EDGE_SCORE,
    granularity: str = "layers",
    whole_image: bool = False,
) -> Circuit:
    """Read the circuit of an explanation from one forward and one backward pass.

    In each layer the most relevant channels are active: the fewest that hold a share
    ``coverage`` of the layer's relevance, at most ``top_k``. An edge from channel ``i`` to
    channel ``j`` scores ``‖W_ji‖₁ · A_i``, with every per-channel scale on the way folded into
    ``W`` (so that folding batch norms into the convolutions changes nothing), after EXP-CAM
    (arXiv 2509.25686). A layer that reads a sum or a concatenation has edges from each of its
    parts. Of attention the heads are nodes, of a transformer's MLP the neurons; what they write
    to the residual stream is read through ``|W_in · W_out|``.

    Args:
        classifier: The classifier that was explained; it is left as it was found.
        explanation: The circuit is read on its masked image, for its class.
        coverage: Share of relevance, in ``(0, 1]``.
        top_k: At most so many channels per layer, at least 1.
        include_input: Whether the colour channels of the image are nodes too.
        nodes: What ranks channels, one of `NODE_SCORES`; the layer's summed score is what
            ``coverage`` is a share of.
        edges: What an edge's ``score`` is, one of `EDGE_SCORES`.
        granularity: ``layers``: every layer that mixes channels; ``blocks``: only those whose
            maps are summed, concatenated or pooled, the paths between them summed up.
        whole_image: Read it on the whole image instead, background and all.

    A classifier whose wiring is not understood is read at its modules with hooks, its edges
    from gradients; an `ExpcamWarning` says so, and why, and so does the graph's ``wiring``.

    Raises:
        ClassifierError: Not even that can be done.
        OptionError: An option out of range.
    """
    if classifier.compares:
        raise OptionError(
            "a circuit is of one class: give the classifier itself, not one `between` two classes"
        )
    nodes, edges = check_selection(coverage, top_k, nodes, edges, granularity)
    e = shown(classifier, explanation, whole_image=whole_image)[None]
    label = explanation.label
    graph: nx.DiGraph[Node] = nx.DiGraph(
        classifier=explanation.classifier,
        label=label,
        label_name=explanation.label_name,
        source=explanation.source,
        contrast=explanation.contrast,
        coverage=coverage,
        top_k=top_k,
        nodes=nodes,
        edges=edges,
        granularity=granularity,
        wiring="exact",
    )

    def selection(name: str, channels: Channels) -> Tensor:
        if name == INPUT:
            return torch.arange(len(IMAGENET_MEAN) if include_input else 0)
        return select(NODE_SCORES[nodes](channels), coverage, top_k)

    with frozen(classifier.module) as module:
        try:
            measured = measure(module, e, label, selection, gradients=edges in NEED_GRADIENT)
            with torch.no_grad():
                found = _Edges(EDGE_SCORES[edges], measured.channels)
                for contribution in follow(measured.recording, measured.active):
                    found.add(contribution)
        except WiringError as error:
            return _by_modules(graph, module, e, selection, str(error))
    _add_nodes(
        graph,
        measured.channels,
        {name: active.channels for name, active in measured.active.items()},
        measured.recording.output_layer,
    )
    graph.add_edges_from(found)
    circuit = Circuit(graph)
    if granularity == "blocks":
        return contract(circuit, where_maps_meet(measured.recording.wiring))
    return circuit


def shown(classifier: Classifier, explanation: Explanation, *, whole_image: bool = False) -> Tensor:
    """What a circuit is read on: the masked image, or the whole one, ``(3, H, W)``."""
    x = torch.from_numpy(explanation.input).to(classifier.device)
    if whole_image:
        return x
    return torch.where(torch.from_numpy(explanation.mask).to(x.device), x, 0)


def check_readable(classifier: Classifier, x: Tensor) -> None:
    """Raise `ClassifierError` when no circuit can be read of a classifier.

    It costs a forward and a backward pass or two on a normalised image ``(3, H, W)``; call it
    before longer work.
    """

    def first(_: str, __: Channels) -> Tensor:
        return torch.tensor([0])

    with frozen(classifier.module) as module:
        try:
            measured = measure(module, x[None], 0, first)
            for _ in follow(measured.recording, measured.active):
                pass
        except WiringError:
            read_modules(module, x[None], 0, first)


def check_selection(
    coverage: float, top_k: int, nodes: str, edges: str, granularity: str
) -> tuple[str, str]:
    """The full names of both scores; `OptionError` when an option of `read_circuit` is none."""
    if not 0 < coverage <= 1:
        raise OptionError(f"coverage {coverage} is out of range: above 0, at most 1")
    if top_k < 1:
        raise OptionError(f"top-k {top_k} is out of range: at least 1")
    if granularity not in GRANULARITIES:
        raise OptionError(
            f"unknown granularity `{granularity}`; there are: {', '.join(GRANULARITIES)}"
        )
    return score_name(nodes, NODE_SCORES, "node"), score_name(edges, EDGE_SCORES, "edge")


def select(relevance: Tensor, coverage: float, top_k: int) -> Tensor:
    """Indices of the active channels, the most relevant first.

    The fewest channels that hold a share ``coverage`` of the summed relevance ``(channels,)``,
    at most ``top_k``; none where nothing is relevant.
    """
    ranked, order = relevance.cpu().double().sort(descending=True, stable=True)
    total = ranked.sum()
    if total == 0:
        return order[:0]
    # The tolerance is that of summing in double precision.
    held = ranked.cumsum(0) >= coverage * total * (1 - 1e-12)
    needed = int(held.int().argmax()) + 1
    return order[: min(needed, top_k)]


def _by_modules(
    graph: "nx.DiGraph[Node]", module: nn.Module, e: Tensor, selection: Selection, reason: str
) -> Circuit:
    """The circuit of a classifier whose wiring is not understood."""
    warnings.warn(
        f"{reason}. The circuit is read at the classifier's modules instead, its edges from "
        "gradients: an edge's weight is what the gradient makes of it on this image",
        ExpcamWarning,
        stacklevel=3,
    )
    reading = read_modules(module, e, graph.graph["label"], selection)
    graph.graph |= {"wiring": f"modules: {reason}", "edges": EDGE_SCORE, "granularity": "layers"}
    _add_nodes(graph, reading.channels, reading.active, reading.output_layer)
    for edge in reading.edges:
        activation = reading.channels[edge.source].activation[edge.sources]
        numbers = (edge.sources, edge.weight * activation, edge.signed)
        for source, score, signed in zip(*(n.tolist() for n in numbers), strict=True):
            if score:
                graph.add_edge((edge.source, source), edge.target, score=score, signed=signed)
    return Circuit(graph)


def _add_nodes(
    graph: "nx.DiGraph[Node]",
    channels: Mapping[str, Channels],
    active: Mapping[str, Tensor],
    output: str,
) -> None:
    """The active channels, the first layer first."""
    kinds = {output: "class", INPUT: "input"}
    order = [name for name in channels if len(active[name])]
    for depth, name in enumerate(order):
        # One transfer for a layer, not one for each number.
        activation = channels[name].activation.tolist()
        relevance = channels[name].relevance.tolist()
        for channel in active[name].tolist():
            graph.add_node(
                (name, channel),
                layer=name,
                channel=channel,
                depth=depth,
                activation=activation[channel],
                relevance=relevance[channel],
                kind=kinds.get(name, "channel"),
            )


class _Edges:
    """Edges that are summed up: a source may reach a target in several ways."""

    def __init__(self, score: EdgeScore, channels: Mapping[str, Channels]) -> None:
        self._score, self._channels = score, channels
        self._numbers: dict[tuple[Node, Node], tuple[float, float]] = {}

    def add(self, contribution: Contribution) -> None:
        activation = self._channels[contribution.source].activation[contribution.sources]
        score = self._score(contribution, activation)
        sources = [(contribution.source, channel) for channel in contribution.sources.tolist()]
        targets = [(contribution.target, channel) for channel in contribution.targets.tolist()]
        rows = (score.tolist(), contribution.signed.tolist(), (contribution.weight > 0).tolist())
        numbers = self._numbers
        for target, *row in zip(targets, *rows, strict=True):
            for source, strength, signed, linked in zip(sources, *row, strict=True):
                if linked:
                    before = numbers.get((source, target), (0.0, 0.0))
                    numbers[source, target] = (before[0] + strength, before[1] + signed)

    def __iter__(self) -> Iterator[tuple[Node, Node, dict[str, float]]]:
        for (source, target), (score, signed) in self._numbers.items():
            yield source, target, {"score": score, "signed": signed}
