"""Classifiers with edges cut: across one the target sees its source as on a reference.

An edge is all weights from one input channel of a layer to one of its own channels: the positions
of a kernel, or the pixels of a channel that was flattened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from expcam.circuits.ablation.choices import Keep, LogitsOf
from expcam.circuits.circuit import Circuit, check_known
from expcam.circuits.edges.layers import convolution_options, follow, unfolded
from expcam.circuits.scores import EDGE_SCORES, EdgeMeasures, EdgeScore
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.program import (
    Call,
    Interpreter,
    Override,
    capture,
    in_dtype_of,
)
from expcam.circuits.trace.recording import INPUT, Channels, measure
from expcam.circuits.trace.wiring import Wiring, wire
from expcam.classifier.model import Classifier
from expcam.errors import OptionError, WiringError


@dataclass(frozen=True, kw_only=True)
class LayerRun:
    """What each layer reads and gives in a run.

    Attributes:
        read: By layer its input ``(1, channels, …)``.
        given: By layer its output, without batch norm and nonlinearity.
        logits: ``(1, classes)``.
    """

    read: dict[str, Tensor]
    given: dict[str, Tensor]
    logits: Tensor


def edge_wiring(module: nn.Module, x: Tensor) -> Wiring:
    """The wiring of a classifier whose edges can be cut.

    Raises:
        WiringError: It has attention, or norms over channels: there an input channel is a sum
            of many sources, and no edge is one weight. Or no one layer gives the classes.
    """
    wiring = wire(capture(module, x))
    if wiring.steps[wiring.logits].kind is Kind.LOGITS:
        raise WiringError(
            "edges of a classifier whose logits do not come from one layer cannot be ablated; "
            "ablate nodes"
        )
    mixing = (Kind.ATTENTION, Kind.PROJECTION, Kind.NORM)
    if any(step.kind in mixing and not _alone(wiring, n) for n, step in wiring.steps.items()):
        raise WiringError(
            "edges of a classifier with attention, or with layer or group norms, cannot be "
            "ablated one by one; ablate nodes"
        )
    return wiring


def _alone(wiring: Wiring, n: fx.Node) -> bool:
    """Whether a norm is of one layer's own channels: its weights are in front of it."""
    step = wiring.steps[n]
    return step.kind is Kind.NORM and step.owner is not None


def layer_run(wiring: Wiring, arguments: Sequence[Any]) -> LayerRun:
    """Run a classifier and note what each layer reads and gives.

    Args:
        wiring: The classifier's.
        arguments: What its program takes (see `Program.arguments`).
    """
    names = {site.node: name for name, site in wiring.sites.items()}
    read: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}

    def observe(call: Call, result: Tensor) -> None:
        if call.node in names:
            read[names[call.node]], given[names[call.node]] = call.args[0], result

    logits = Interpreter(wiring.program, observe=observe).logits(arguments)
    return LayerRun(read=read, given=given, logits=logits)


def averaged_run(runs: Sequence[LayerRun]) -> LayerRun:
    """What layers read on average, and what they give on that."""
    if len(runs) == 1:
        return runs[0]
    read = {name: torch.stack([run.read[name] for run in runs]).mean(0) for name in runs[0].read}
    given = {name: torch.stack([run.given[name] for run in runs]).mean(0) for name in runs[0].given}
    return LayerRun(read=read, given=given, logits=torch.stack([r.logits for r in runs]).mean(0))


def with_edges(wiring: Wiring, arguments: Sequence[Any], reference: LayerRun, keep: Keep) -> Tensor:
    """Logits ``(1, classes)`` when each target sees its kept sources, the others on a reference.

    A layer is linear, so that its output is that on the reference plus its kept weights on what
    is different.

    Args:
        wiring: The classifier's.
        arguments: What its program takes (see `Program.arguments`).
        reference: What every layer reads and gives on the reference.
        keep: By layer the edges that are kept, ``(targets, inputs)``; in a grouped convolution
            the inputs of the target's group.
    """

    def cut(name: str) -> Override:
        def given(call: Call) -> Tensor:
            read, weight, *rest = call.args
            kept = _targets_first(keep[name].to(weight), call.node)
            kept = kept.view(*kept.shape, *[1] * (weight.ndim - 2))
            args = (read - reference.read[name], weight * kept)
            if rest:  # the bias is in what the layer gives on the reference
                args = (*args, None, *rest[1:])
            kwargs = {key: value for key, value in call.kwargs.items() if key != "bias"}
            changed: Tensor = Call(call.node, args, kwargs).run()
            return changed + reference.given[name]

        return given

    override = {site.node: cut(name) for name, site in wiring.sites.items()}
    return Interpreter(wiring.program, override=override).logits(arguments)


class Edges:
    """The edges of a classifier on one image; across one that is not kept, the reference is seen.

    Args:
        classifier: Whose they are.
        module: Its module, frozen.
        x: Normalised image ``(3, H, W)``.
        label: The class whose logit the scores look at.

    Attributes:
        whole: Logits ``(classes,)`` with everything kept.
        shapes: By layer how many targets its weight has, and how many inputs.

    Raises:
        WiringError: Its edges cannot be cut (see `edge_wiring`).
    """

    def __init__(self, classifier: Classifier, module: nn.Module, x: Tensor, label: int) -> None:
        x = in_dtype_of(module, x)
        self._module, self._x, self._label = module, x, label
        self._wiring = edge_wiring(module, x[None])
        self.shapes = {
            name: _targets_first(weight, self._wiring.sites[name].node).shape[:2]
            for name, (_, weight) in _weights(self._wiring, self._arguments(module, x)).items()
        }
        with torch.no_grad():
            self.whole = layer_run(self._wiring, self._arguments(module, x)).logits[0]

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Scores of all edges, by method and layer, measured on a module.

        They are those of `EDGE_SCORES`, of all weights at once: a sum that a layer reads counts
        as one source per channel, with its own activation.

        Returns:
            For each score's name and each layer ``(targets, inputs)``; in a grouped convolution
            the inputs of the target's group.
        """
        return edge_scores(self._wiring, self._arguments(module, self._x), self._label, EDGE_SCORES)

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The edges of a circuit, boolean, by layer.

        Where a layer reads a sum, an input is kept with all of its summands.

        Raises:
            OptionError: The circuit is not of this classifier, or it is one of blocks.
        """
        if circuit.graph.graph["granularity"] != "layers":
            raise OptionError("edges between blocks are many weights; test them of layers")
        counts = {name: shape[0] for name, shape in self.shapes.items()}
        check_known((node for node in circuit.graph if node[0] != INPUT), counts)
        return _edges_of(self._module, self._x, circuit, self.shapes)

    def against(self, references: Sequence[Tensor], *, averaged: bool) -> LogitsOf:
        """The test by one reference.

        Args:
            references: Images, of which the mean is taken; with none of them the reference is
                the mean colour.
            averaged: Is of no account here.
        """
        seen = self.seen_on(references or [torch.zeros_like(self._x)])
        return lambda keeps: torch.cat([self.logits(keep, seen, self._x) for keep in keeps])

    @torch.no_grad()
    def seen_on(self, references: Sequence[Tensor]) -> LayerRun:
        """What layers read on average over some images, and what they give on that."""
        return averaged_run(
            [layer_run(self._wiring, self._arguments(self._module, x)) for x in references]
        )

    @torch.no_grad()
    def logits(self, keep: Keep, seen: LayerRun, x: Tensor) -> Tensor:
        """Logits ``(1, classes)`` of an image with only some edges kept.

        Args:
            keep: These edges.
            seen: What is seen across all others.
            x: Normalised image ``(channels, H, W)``.
        """
        return with_edges(self._wiring, self._arguments(self._module, x), seen, keep)

    def _arguments(self, module: nn.Module, x: Tensor) -> list[Any]:
        return self._wiring.program.arguments(module, in_dtype_of(module, x)[None])


def edge_scores(
    wiring: Wiring, arguments: Sequence[Any], label: int, scores: Mapping[str, EdgeScore]
) -> dict[str, dict[str, Tensor]]:
    """Scores of all edges by score and layer, ``(targets, inputs)``; see `Edges.scores`."""
    own = _weights(wiring, arguments)
    with torch.no_grad():
        run = layer_run(wiring, arguments)
    gradients = {}
    if any(score.needs_gradient for score in scores.values()):
        gradients = _gradients(wiring, arguments, label, own)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in scores}
    for layer, (_, weight) in own.items():
        node = wiring.sites[layer].node
        matrix, read = _targets_first(weight, node), run.read[layer]
        activation = _channels_first(read, node).abs().mean(1)
        groups = len(activation) // matrix.shape[1]
        attribution = sensitivity = None
        if layer in gradients:
            by_weight, by_target = gradients[layer]
            attribution = _over_kernel(_targets_first(weight * by_weight, node))
            sensitivity = by_target[:, None]
        measures = EdgeMeasures(
            weight=_over_kernel(matrix.abs()),
            activation=activation.view(groups, -1).repeat_interleave(len(matrix) // groups, 0),
            signed=_signed(matrix, read, node),
            attribution=attribution,
            sensitivity=sensitivity,
        )
        for name, score in scores.items():
            found[name][layer] = score.of(measures)
    return found


def _weights(wiring: Wiring, arguments: Sequence[Any]) -> dict[str, tuple[str, Tensor]]:
    """For each layer the name of the input that holds its weight, and that weight."""
    by_input = dict(zip(wiring.program.inputs, arguments, strict=True))
    found = {}
    for name, site in wiring.sites.items():
        node: Any = site.node.args[1]
        if not isinstance(node, fx.Node) or node.name not in by_input:
            raise WiringError(f"the weights of `{name}` are made anew in every run")
        found[name] = (node.name, by_input[node.name])
    return found


def _targets_first(weight: Tensor, n: fx.Node) -> Tensor:
    """A tensor like a weight; of a product ``x @ W`` it is ``(inputs, targets)``, and turned."""
    return weight.T if operation(n) in ("matmul", "mm") else weight


def _channels_first(tensor: Tensor, n: fx.Node) -> Tensor:
    """What a layer reads or gives, ``(channels, positions)``."""
    return tensor.movedim(1 if operation(n) == "conv2d" else -1, 0).flatten(1)


def _over_kernel(weight: Tensor) -> Tensor:
    """A sum over a kernel's positions, ``(targets, inputs)``."""
    return weight.flatten(2).sum(2) if weight.ndim > 2 else weight


def _signed(weight: Tensor, read: Tensor, n: fx.Node) -> Tensor:
    """What each weight adds to the mean of its target, ``(targets, inputs)``."""
    if operation(n) != "conv2d":
        return weight * _channels_first(read, n).mean(1)
    stride, padding, dilation, groups = convolution_options(n.args[3:], n.kwargs)
    # Windows may lie side by side in the batch.
    seen = unfolded(read.flatten(0, 1)[:, None], weight.shape[2:], stride, padding, dilation)
    seen = seen.unflatten(0, read.shape[:2]).mean((0, 3))
    per_target = seen.view(groups, -1, seen.shape[1]).repeat_interleave(len(weight) // groups, 0)
    signed: Tensor = (weight.flatten(2) * per_target).sum(2)
    return signed


def _gradients(
    wiring: Wiring, arguments: Sequence[Any], label: int, own: Mapping[str, tuple[str, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Gradients of a class's logit by every layer's weight, and by its channels.

    A weight times its gradient is what the edge adds to the target, times the gradient there,
    summed over positions: for each weight at once what attribution patching estimates.

    Returns:
        By layer the gradient, like the weight, and the summed absolute gradient by each
        channel's preactivation, ``(targets,)``.
    """
    leaves = {given: weight.detach().requires_grad_() for given, weight in own.values()}
    by_input = zip(wiring.program.inputs, arguments, strict=True)
    with torch.enable_grad():
        run = layer_run(wiring, [leaves.get(given, value) for given, value in by_input])
        wanted = [*leaves.values(), *(run.given[name] for name in own)]
        found = [
            torch.zeros_like(each) if gradient is None else gradient
            for each, gradient in zip(
                wanted,
                torch.autograd.grad(run.logits[0, label], wanted, allow_unused=True),
                strict=True,
            )
        ]
    by_leaf = dict(zip(leaves, found, strict=False))
    return {
        name: (
            by_leaf[given],
            _channels_first(by_channel, wiring.sites[name].node).abs().sum(1),
        )
        for (name, (given, _)), by_channel in zip(own.items(), found[len(leaves) :], strict=True)
    }


def _edges_of(
    module: nn.Module, x: Tensor, circuit: Circuit, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Which weights a circuit's edges are, boolean, by layer ``(targets, inputs)``."""
    wanted: dict[str, list[int]] = {}
    for layer, channel in circuit.graph:
        wanted.setdefault(layer, []).append(channel)
    everything = torch.arange(x.shape[0])

    def selection(name: str, _: Channels) -> Tensor:
        # A circuit without colour channels sees the image whole.
        default = everything if name == INPUT else torch.arange(0)
        return torch.tensor(wanted[name]) if name in wanted else default

    measured = measure(module, x[None], int(circuit.graph.graph["label"]), selection)
    keep = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    with torch.no_grad():
        for each in follow(measured.recording, measured.active):
            columns = each.columns
            if columns is None:
                continue
            rows, inputs = shapes[each.target]
            groups = measured.recording.wiring.groups(each.target)
            for target in each.targets.tolist():
                sources = {
                    source
                    for source in each.sources.tolist()
                    if (each.source == INPUT and INPUT not in wanted)
                    or circuit.graph.has_edge((each.source, source), (each.target, target))
                }
                first = target // (rows // groups) * inputs
                for source, column in columns.tolist():
                    if source in sources and 0 <= column - first < inputs:
                        keep[each.target][target, column - first] = True
    return keep
