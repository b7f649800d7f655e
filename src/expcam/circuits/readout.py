"""From an explanation's forward and backward pass to the circuit."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from expcam.circuits.blocks import contract, where_maps_meet
from expcam.circuits.circuit import Circuit, check_classifier
from expcam.circuits.edges.gradients import read_modules
from expcam.circuits.edges.layers import Contribution, follow
from expcam.circuits.formats import Node
from expcam.circuits.scores import (
    BY_GRADIENT,
    COVERAGE,
    EDGE_SCORE,
    EDGE_SCORES,
    GRANULARITIES,
    NODE_SCORE,
    NODE_SCORES,
    READOUT,
    TOP_K,
    EdgeMeasures,
    score_name,
)
from expcam.circuits.trace.recording import INPUT, Channels, Measured, Selection, measure
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.model import Classifier
from expcam.errors import ExpcamWarning, OptionError, WiringError
from expcam.explain.explanation import Explanation


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

    A classifier whose wiring is not understood is read at its modules with hooks, and gradients
    stand in for the weights between them. An `ExpcamWarning` says so, and why; so do the graph's
    ``wiring`` and ``edges``.

    Raises:
        ClassifierError: Not even that can be done, or it is called inside
            ``torch.inference_mode()``.
        OptionError: An option out of range, or an explanation of another classifier.
    """
    require_autograd("read_circuit")
    check_classifier("explanation", explanation.classifier, classifier.name)
    if classifier.compares:
        raise OptionError(
            "a circuit is of one class: give the classifier itself, not one `between` two classes"
        )
    nodes, edges = check_selection(coverage, top_k, nodes, edges, granularity)
    e = shown(classifier, explanation, whole_image=whole_image)[None]

    def selection(name: str, channels: Channels) -> Tensor:
        if name == INPUT:
            return torch.arange(e.shape[1] if include_input else 0)
        return select(NODE_SCORES[nodes](channels), coverage, top_k)

    graph = _graph_of(explanation, edges)
    graph.graph |= {
        **{"method": READOUT, "coverage": coverage, "top_k": top_k, "nodes": nodes},
        "granularity": granularity,
    }
    with frozen(classifier.network) as module:
        try:
            measured = _read(module, e, explanation.label, selection, graph)
        except WiringError as error:
            _warn(str(error), granularity)
            _read_modules(module, e, explanation.label, selection, graph, error)
            return Circuit(graph)
    if granularity == "blocks":
        return contract(Circuit(graph), where_maps_meet(measured.recording.wiring))
    return Circuit(graph)


def read_channels(
    classifier: Classifier,
    explanation: Explanation,
    keep: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    whole_image: bool,
    strongest: int,
) -> Circuit:
    """The circuit of given channels, with the edges among them by ``‖W‖₁ · A``.

    Args:
        classifier: Inside `frozen`.
        explanation: The circuit is read on its masked image, for its class.
        keep: By layer which channels, boolean ``(channels,)``.
        facts: The graph's further attributes.
        whole_image: Read it on the whole image instead.
        strongest: Of each channel at most so many edges that lead to it. A classifier that is
            read at its modules has none: there each would take a pass.
    """
    e = shown(classifier, explanation, whole_image=whole_image)[None]

    def selection(name: str, channels: Channels) -> Tensor:
        return keep[name].nonzero()[:, 0] if name in keep else torch.arange(0)

    graph = _graph_of(explanation, EDGE_SCORE)
    graph.graph |= {"nodes": NODE_SCORE, "granularity": "layers", **facts}
    try:
        _read(classifier.network, e, explanation.label, selection, graph, strongest)
    except WiringError as error:
        _read_modules(
            classifier.network, e, explanation.label, selection, graph, error, linked=False
        )
    return Circuit(graph)


def _graph_of(explanation: Explanation, edges: str) -> "nx.DiGraph[Node]":
    """A graph without nodes, of an explanation's class."""
    graph: nx.DiGraph[Node] = nx.DiGraph(
        classifier=explanation.classifier,
        label=explanation.label,
        label_name=explanation.label_name,
        source=explanation.source,
        edges=edges,
        wiring="exact",
    )
    if explanation.contrast is not None:  # GraphML knows no None
        graph.graph["contrast"] = explanation.contrast
    if explanation.group:  # nor lists
        graph.graph["group"] = " ".join(map(str, explanation.group))
    return graph


def _read(
    module: nn.Module,
    e: Tensor,
    label: int,
    selection: Selection,
    graph: "nx.DiGraph[Node]",
    strongest: int | None = None,
) -> Measured:
    """Fill a graph with the selected channels and the edges among them."""
    edges = graph.graph["edges"]
    gradients = EDGE_SCORES[edges].needs_gradient
    measured = measure(module, e, label, selection, gradients=gradients)
    active = {name: each.channels for name, each in measured.active.items()}
    with torch.no_grad():
        contributions = follow(measured.recording, measured.active)
        found = _edges(edges, measured.channels, contributions, strongest)
    _fill(graph, measured.channels, active, measured.recording.output_layer, found)
    return measured


def _read_modules(
    module: nn.Module,
    e: Tensor,
    label: int,
    selection: Selection,
    graph: "nx.DiGraph[Node]",
    reason: WiringError,
    *,
    linked: bool = True,
) -> None:
    """The same of a classifier whose wiring is not understood, for a reason."""
    edges = graph.graph["edges"]
    gradients = EDGE_SCORES[edges].needs_gradient
    reading = read_modules(module, e, label, selection, gradients=gradients, linked=linked)
    found = _edges(edges, reading.channels, reading.edges)
    _fill(graph, reading.channels, reading.active, reading.output_layer, found)
    graph.graph |= {
        "wiring": f"modules: {reason}",
        "edges": edges + BY_GRADIENT,
        "granularity": "layers",
    }


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
    require_autograd("reading a circuit")

    def first(_: str, __: Channels) -> Tensor:
        return torch.tensor([0])

    with frozen(classifier.network) as module:
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


def _warn(reason: str, granularity: str) -> None:
    """Say that a classifier is read at its modules, and what follows from it."""
    layers = "; it has all layers, since blocks are not known" if granularity == "blocks" else ""
    warnings.warn(
        f"{reason}. The circuit is read at the classifier's modules instead, its edges from "
        f"gradients: an edge's weight is what the gradient makes of it on this image{layers}",
        ExpcamWarning,
        stacklevel=3,
    )


def _fill(
    graph: "nx.DiGraph[Node]",
    channels: Mapping[str, Channels],
    active: Mapping[str, Tensor],
    output: str,
    edges: Iterator[tuple[Node, Node, dict[str, float]]],
) -> None:
    """Add the active channels to a graph, the first layer first, and the edges between them."""
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
    graph.add_edges_from(edges)


def _edges(
    name: str,
    channels: Mapping[str, Channels],
    contributions: Iterable[Contribution],
    strongest: int | None = None,
) -> Iterator[tuple[Node, Node, dict[str, float]]]:
    """Edges with their scores; a source that reaches a target on several paths counts once.

    Args:
        name: What an edge's score is.
        channels: Measures of all layers' channels.
        contributions: What the edges add.
        strongest: Of each target only so many edges, those of the highest score; None for all.
    """
    found: dict[Node, dict[Node, tuple[float, float]]] = {}
    for each in contributions:
        activation = channels[each.source].activation[each.sources]
        measures = EdgeMeasures(
            weight=each.weight,
            activation=activation.expand_as(each.weight),
            signed=each.signed,
            attribution=each.attribution,
            sensitivity=None if each.sensitivity is None else each.sensitivity[:, None],
        )
        score = EDGE_SCORES[name].of(measures)
        # A source is mostly in one contribution alone.
        kept = score.topk(min(strongest or score.shape[1], score.shape[1]), 1)
        rows = (
            each.targets.tolist(),
            each.sources[kept.indices].tolist(),
            kept.values.tolist(),
            each.signed.gather(1, kept.indices).tolist(),
            (each.weight.gather(1, kept.indices) > 0).tolist(),
        )
        for target, *row in zip(*rows, strict=True):
            into = found.setdefault((each.target, target), {})
            for source, strength, signed, linked in zip(*row, strict=True):
                if linked:
                    before = into.get((each.source, source), (0.0, 0.0))
                    into[each.source, source] = (before[0] + strength, before[1] + signed)
    for target_node, into in found.items():
        best = (
            sorted(into.items(), key=lambda edge: -edge[1][0])[:strongest]
            if strongest
            else (into.items())
        )
        for source_node, (strength, signed) in best:
            yield source_node, target_node, {"score": strength, "signed": signed}
