"""Classifiers of which chosen edges are cut: there a target sees its source on a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from expcam.circuits.circuit import Circuit, check_known
from expcam.circuits.flows import INPUT
from expcam.circuits.following import follow
from expcam.circuits.measuring import measure
from expcam.circuits.program import Runner, capture, operation
from expcam.circuits.reading import convolution_options, unfolded
from expcam.circuits.scores import BOUND, GRADIENT, NEED_GRADIENT, Channels
from expcam.circuits.wiring import Kind, Wiring, wire
from expcam.classifier.model import IMAGENET_MEAN
from expcam.errors import WiringError


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What each layer reads in a run.

    Attributes:
        read: By layer its input ``(1, channels, …)``.
        given: By layer its output.
        logits: ``(1, classes)``.
    """

    read: dict[str, Tensor]
    given: dict[str, Tensor]
    logits: Tensor


def edge_wiring(module: nn.Module, x: Tensor) -> Wiring:
    """The wiring of a classifier whose edges can be cut.

    Raises:
        WiringError: It has attention, or norms over channels: there an input channel is a sum
            of many sources, and no edge is one weight.
    """
    wiring = wire(capture(module, x))
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


def weights(wiring: Wiring, module: nn.Module, x: Tensor) -> dict[str, tuple[str, Tensor]]:
    """For each layer the name of the input that holds its weight, and that weight."""
    arguments = dict(zip(wiring.program.inputs, wiring.program.arguments(module, x), strict=True))
    found = {}
    for name, site in wiring.sites.items():
        node: Any = site.node.args[1]
        if not isinstance(node, fx.Node) or node.name not in arguments:
            raise WiringError(f"the weights of `{name}` are made anew in every run")
        found[name] = (node.name, arguments[node.name])
    return found


def edge_shapes(wiring: Wiring, module: nn.Module, x: Tensor) -> dict[str, torch.Size]:
    """For each layer how many targets its weight has, and how many inputs."""
    return {
        name: _targets_first(weight, wiring.sites[name].node).shape[:2]
        for name, (_, weight) in weights(wiring, module, x).items()
    }


def _targets_first(weight: Tensor, n: fx.Node) -> Tensor:
    """A tensor like a weight; of a product ``x @ W`` it is ``(inputs, targets)``, and turned."""
    return weight.T if operation(n) in ("matmul", "mm") else weight


def _channels_first(tensor: Tensor, n: fx.Node) -> Tensor:
    """What a layer reads or gives, ``(channels, positions)``."""
    return tensor.movedim(1 if operation(n) == "conv2d" else -1, 0).flatten(1)


def inputs_of(wiring: Wiring, module: nn.Module, x: Tensor) -> Inputs:
    """Run a classifier and note what each layer reads and gives."""
    runner = _Watching(wiring)
    logits = runner(module, x)
    return Inputs(read=runner.read, given=runner.given, logits=logits)


def averaged(runs: Sequence[Inputs], wiring: Wiring) -> Inputs:
    """What layers read on the average of several runs, and what they give on that."""
    read = {name: torch.stack([run.read[name] for run in runs]).mean(0) for name in wiring.sites}
    given = {name: torch.stack([run.given[name] for run in runs]).mean(0) for name in wiring.sites}
    return Inputs(read=read, given=given, logits=torch.stack([r.logits for r in runs]).mean(0))


def with_edges(
    wiring: Wiring, module: nn.Module, x: Tensor, reference: Inputs, keep: Mapping[str, Tensor]
) -> Tensor:
    """Logits ``(1, classes)`` when each target sees its kept sources, the others on a reference.

    A layer is linear, so that its output is that on the reference plus its kept weights on what
    is different.

    Args:
        wiring: Of the module.
        module: Frozen.
        x: Normalised image ``(1, 3, H, W)``.
        reference: What every layer reads and gives on the reference.
        keep: By layer the edges that are kept, ``(targets, inputs)``; in a grouped convolution
            the inputs of the target's group.
    """
    return _Cutting(wiring, reference, keep)(module, x)


class _Watching(Runner):
    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring.program)
        self.read: dict[str, Tensor] = {}
        self.given: dict[str, Tensor] = {}
        self._names = {site.node: name for name, site in wiring.sites.items()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._names:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self.read[self._names[n]], self.given[self._names[n]] = args[0], result
        return result


class _Cutting(Runner):
    def __init__(self, wiring: Wiring, reference: Inputs, keep: Mapping[str, Tensor]) -> None:
        super().__init__(wiring.program)
        self._reference, self._keep = reference, keep
        self._names = {site.node: name for name, site in wiring.sites.items()}

    def run_node(self, n: fx.Node) -> Any:
        name = self._names.get(n)
        if name is None:
            return super().run_node(n)
        (read, weight, *rest), kwargs = self.fetch_args_kwargs_from_env(n)
        # Kernel positions, and the pixels of a flattened channel, are of one edge each.
        kept = _targets_first(self._keep[name].to(weight), n)
        kept = kept.view(*kept.shape, *[1] * (weight.ndim - 2))
        new = (read - self._reference.read[name], weight * kept)
        if rest:
            new = (*new, None, *rest[1:])
        kwargs = {key: value for key, value in kwargs.items() if key != "bias"}
        return n.target(*new, **kwargs) + self._reference.given[name]  # type: ignore[operator]


def edge_scores(
    wiring: Wiring, module: nn.Module, x: Tensor, label: int, names: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """Scores of all edges between a layer's inputs and its channels.

    They are those of `EDGE_SCORES`, of all weights at once: a sum that a layer reads counts as
    one source per channel, with its own activation.

    Returns:
        For each score's name and each layer ``(targets, inputs)``; in a grouped convolution the
        inputs of the target's group.
    """
    own = weights(wiring, module, x)
    with torch.no_grad():
        run = inputs_of(wiring, module, x)
    gradients = {}
    if set(names) & set(NEED_GRADIENT):
        gradients = _gradients(wiring, module, x, label, own)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for layer, (_, weight) in own.items():
        node = wiring.sites[layer].node
        matrix, read = _targets_first(weight, node), run.read[layer]
        activation = _channels_first(read, node).abs().mean(1)
        groups = len(activation) // matrix.shape[1]
        per_target = activation.view(groups, -1).repeat_interleave(len(matrix) // groups, 0)
        norm = _over_kernel(matrix.abs())
        by_name = {
            "weight×activation": norm * per_target,
            "signed": _signed(matrix, read, node).abs(),
            "activation": per_target.clone(),
            "weight": norm,
        }
        if layer in gradients:
            by_weight, pull = gradients[layer]
            by_name[GRADIENT] = _over_kernel(_targets_first(weight * by_weight, node)).abs()
            by_name[BOUND] = by_name["weight×activation"] * pull[:, None]
        for name in names:
            found[name][layer] = by_name[name]
    return found


def _over_kernel(weight: Tensor) -> Tensor:
    """A sum over a kernel's positions, ``(targets, inputs)``."""
    return weight.flatten(2).sum(2) if weight.ndim > 2 else weight


def _signed(weight: Tensor, read: Tensor, n: fx.Node) -> Tensor:
    """What each weight adds to the mean of its target, ``(targets, inputs)``."""
    if operation(n) != "conv2d":
        return weight * _channels_first(read, n).mean(1)
    stride, padding, dilation, groups = convolution_options(n.args[3:], n.kwargs)
    seen = unfolded(read[0][:, None], weight.shape[2:], stride, padding, dilation).mean(2)
    per_target = seen.view(groups, -1, seen.shape[1]).repeat_interleave(len(weight) // groups, 0)
    return (weight.flatten(2) * per_target).sum(2)


def _gradients(
    wiring: Wiring, module: nn.Module, x: Tensor, label: int, own: Mapping[str, tuple[str, Tensor]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Gradients of a class's logit by every layer's weight, and by its channels.

    A weight times its gradient is what the edge adds to the target, times the gradient there,
    summed over positions: for each weight at once what attribution patching estimates.

    Returns:
        By layer the gradient, like the weight, and the summed absolute gradient by each
        channel's preactivation, ``(targets,)``.
    """
    leaves = {given: weight.detach().requires_grad_() for given, weight in own.values()}
    program = wiring.program
    arguments = [
        leaves.get(given, value)
        for given, value in zip(program.inputs, program.arguments(module, x), strict=True)
    ]
    runner = _Watching(wiring)
    with torch.enable_grad():
        logits = runner.logits(arguments)
        wanted = [*leaves.values(), *(runner.given[name] for name in own)]
        found = [
            torch.zeros_like(each) if gradient is None else gradient
            for each, gradient in zip(
                wanted,
                torch.autograd.grad(logits[0, label], wanted, allow_unused=True),
                strict=True,
            )
        ]
    by_input = dict(zip(leaves, found, strict=False))
    return {
        name: (
            by_input[given],
            _channels_first(by_channel, wiring.sites[name].node).abs().sum(1),
        )
        for (name, (given, _)), by_channel in zip(own.items(), found[len(leaves) :], strict=True)
    }


def edges_of(
    module: nn.Module, x: Tensor, circuit: Circuit, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Which weights a circuit's edges are.

    Args:
        module: Frozen.
        x: Normalised image ``(3, H, W)``.
        circuit: One of this classifier.
        shapes: By layer ``(targets, inputs)`` of its weight.

    Returns:
        By layer, boolean, ``(targets, inputs)``. Where a layer reads a sum, an input is kept
        with all of its summands.

    Raises:
        OptionError: The circuit is not of this classifier.
    """
    check_known(
        (node for node in circuit.graph if node[0] != INPUT),
        {name: shape[0] for name, shape in shapes.items()},
    )
    wanted: dict[str, list[int]] = {}
    for layer, channel in circuit.graph:
        wanted.setdefault(layer, []).append(channel)
    everything = torch.arange(len(IMAGENET_MEAN))
    label = int(circuit.graph.graph["label"])

    def selection(name: str, _: Channels) -> Tensor:
        # A circuit without colour channels sees the image whole.
        default = everything if name == INPUT else torch.arange(0)
        return torch.tensor(wanted[name]) if name in wanted else default

    measured = measure(module, x[None], label, selection)
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
