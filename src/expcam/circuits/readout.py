"""From an explanation's forward and backward pass to the circuit."""

from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor

from expcam.circuits.circuit import Circuit
from expcam.circuits.flows import INPUT
from expcam.circuits.recording import Layer, Read, Recording, record
from expcam.classifier.frozen import frozen
from expcam.classifier.model import IMAGENET_MEAN, Classifier
from expcam.errors import OptionError
from expcam.explain.explanation import Explanation

COVERAGE = 0.9
TOP_K = 16


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Measures of one layer's channels on one image, each ``(channels,)``.

    Attributes:
        activation: Mean over space of the absolute activation.
        relevance: Absolute mean over space of activation × gradient of the class's logit.
    """

    activation: Tensor
    relevance: Tensor


def read_circuit(
    classifier: Classifier,
    explanation: Explanation,
    *,
    coverage: float = COVERAGE,
    top_k: int = TOP_K,
    include_input: bool = False,
) -> Circuit:
    """Read the circuit of an explanation from one forward and one backward pass.

    In each layer the most relevant channels are active: the fewest that hold a share
    ``coverage`` of the layer's relevance, at most ``top_k``. An edge from channel ``i`` to
    channel ``j`` scores ``‖W_ji‖₁ · A_i``, with every per-channel scale on the way folded into
    ``W`` (so that folding batch norms into the convolutions changes nothing), after EXP-CAM
    (arXiv 2509.25686). A layer that reads a sum or a concatenation has edges from each of its
    parts.

    Args:
        classifier: The classifier that was explained; it is left as it was found.
        explanation: The circuit is read on its masked image, for its class.
        coverage: Share of relevance, in ``(0, 1]``.
        top_k: At most so many channels per layer, at least 1.
        include_input: Whether the colour channels of the image are nodes too.

    Raises:
        ClassifierError: The classifier does something to channels that is not understood.
        OptionError: ``coverage`` or ``top_k`` out of range.
    """
    check_selection(coverage, top_k)
    device = classifier.device
    x = torch.from_numpy(explanation.input).to(device)
    mask = torch.from_numpy(explanation.mask).to(device)
    e = torch.where(mask, x, 0)[None]
    with frozen(classifier.module) as module:
        recording = record(module, e.requires_grad_())
        measures = measure(recording, e, explanation.label)
    output = recording.output_layer
    active = {
        name: select(channels.relevance, coverage, top_k)
        for name, channels in measures.items()
        if name not in (output, INPUT)
    }
    active[output] = torch.tensor([explanation.label])
    if include_input:
        active[INPUT] = torch.arange(len(IMAGENET_MEAN))

    graph: nx.DiGraph[tuple[str, int]] = nx.DiGraph(
        classifier=explanation.classifier,
        label=explanation.label,
        label_name=explanation.label_name,
        source=explanation.source,
        coverage=coverage,
        top_k=top_k,
    )
    kinds = {output: "class", INPUT: "input"}
    order = [INPUT, *recording.layers] if include_input else list(recording.layers)
    for depth, name in enumerate(order):
        for channel in active[name].tolist():
            graph.add_node(
                (name, channel),
                layer=name,
                channel=channel,
                depth=depth,
                activation=float(measures[name].activation[channel]),
                relevance=float(measures[name].relevance[channel]),
                kind=kinds.get(name, "channel"),
            )
    for layer in recording.layers.values():
        for read in layer.reads:
            if read.source in active:
                _add_edges(graph, layer, read, active, measures[read.source].activation)
    return Circuit(graph)


def check_readable(classifier: Classifier, x: Tensor) -> None:
    """Raise `ClassifierError` when no circuit can be read of a classifier.

    It costs one forward pass on a normalised image ``(3, H, W)``; call it before longer work.
    """
    with frozen(classifier.module) as module:
        record(module, x[None])


def check_selection(coverage: float, top_k: int) -> None:
    """Raise `OptionError` when ``coverage`` or ``top_k`` is out of range."""
    if not 0 < coverage <= 1:
        raise OptionError(f"coverage {coverage} is out of range: above 0, at most 1")
    if top_k < 1:
        raise OptionError(f"top-k {top_k} is out of range: at least 1")


def measure(recording: Recording, e: Tensor, label: int) -> dict[str, Channels]:
    """Activation and relevance of every channel of every layer, and of the input's colours."""
    tensors = {INPUT: e, **{name: layer.activation for name, layer in recording.layers.items()}}
    gradients = gradients_of(recording, label, e)
    measures = {}
    for name, tensor in tensors.items():
        a = tensor.detach().reshape(tensor.shape[1], -1)
        product = a * gradients[name].reshape(a.shape)
        measures[name] = Channels(
            activation=a.abs().mean(1).cpu(), relevance=product.mean(1).abs().cpu()
        )
    return measures


def gradients_of(recording: Recording, label: int, e: Tensor | None = None) -> dict[str, Tensor]:
    """Gradient of the class's logit by each layer's activation, by layer; 0 where it has no part.

    With the image ``e`` ``(1, 3, H, W)`` that was recorded, also by its colours.
    """
    tensors = {name: layer.activation for name, layer in recording.layers.items()}
    if e is not None:
        tensors[INPUT] = e
    gradients = torch.autograd.grad(
        recording.logits[0, label], list(tensors.values()), allow_unused=True
    )
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True)
    }


def select(relevance: Tensor, coverage: float, top_k: int) -> Tensor:
    """Indices of the active channels, the most relevant first.

    The fewest channels that hold a share ``coverage`` of the summed relevance ``(channels,)``,
    at most ``top_k``; none where nothing is relevant.
    """
    ranked, order = relevance.double().sort(descending=True, stable=True)
    total = ranked.sum()
    if total == 0:
        return order[:0]
    # The tolerance is that of summing in double precision.
    held = ranked.cumsum(0) >= coverage * total * (1 - 1e-12)
    needed = int(held.int().argmax()) + 1
    return order[: min(needed, top_k)]


def _add_edges(
    graph: "nx.DiGraph[tuple[str, int]]",
    layer: Layer,
    read: Read,
    active: dict[str, Tensor],
    activation: Tensor,
) -> None:
    """Edges from the active channels of one source to those of ``layer``."""
    wanted = set(active[read.source].tolist())
    places = [n for n, channel in enumerate(read.channels.tolist()) if channel in wanted]
    per_group = layer.weight.shape[1]
    targets_per_group = layer.weight.shape[0] // layer.groups
    for target in active[layer.name].tolist():
        first = target // targets_per_group * per_group
        for place in places:
            column = int(read.columns[place]) - first
            if not 0 <= column < per_group:
                continue
            channel = int(read.channels[place])
            kernel = layer.weight[target, column] * layer.scale[target]
            norm = float(kernel.abs().sum()) * float(read.scale[place])
            edge = ((read.source, channel), (layer.name, target))
            # A source that reaches the layer on several paths has one edge, their sum.
            before = graph.get_edge_data(*edge, default={"score": 0.0, "signed": 0.0})
            graph.add_edge(
                *edge,
                score=before["score"] + norm * float(activation[channel]),
                signed=before["signed"] + float(kernel @ read.mean[place]),
            )
