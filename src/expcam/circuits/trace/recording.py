"""Run a classifier once: what its circuit needs of each layer, and of the way back.

`record` keeps what happens on the way from the image to the logits. `measure` also goes back from
the logit of a class, and tells how much each channel mattered.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from expcam.circuits.trace.kinds import Kind, reduced_dims
from expcam.circuits.trace.program import Call, Interpreter, capture, flat, in_dtype_of, operation
from expcam.circuits.trace.wiring import Step, Wiring, not_understood, wire
from expcam.errors import WiringError

INPUT = "input"
"""The layer name of the colour channels of the image."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A channel-mixing layer as it ran on one image.

    Attributes:
        name: As in ``named_modules()``, where it is a module; else the name of its weight.
        axis: The dimension of its activation that its channels are along.
        shape: The shape of its activation, its output behind batch norm and nonlinearity.
        scale: Signed per-channel scale between its weights and the nonlinearity, ``(channels,)``.
    """

    name: str
    axis: int
    shape: torch.Size
    scale: Tensor

    @property
    def channels(self) -> int:
        """How many it has."""
        return self.shape[self.axis]

    def rows(self, tensor: Tensor) -> Tensor:
        """A tensor like the activation, its channels first: ``(channels, *positions)``."""
        return tensor.movedim(self.axis, 0)


LayerObserver = Callable[[Layer, Tensor, Tensor], None]
"""Is handed a layer, its activation and its preactivation, both part of the autograd graph."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of an operation in a run, so that channels can be followed through it.

    Attributes:
        args: Its arguments. A tensor whose channels are followed is not kept; the operation
            that gave it stands in its place.
        kwargs: The same by name.
        shapes: The shapes of its results.
        frozen: What it did to this image: the factors of a gate or a norm, the places that a max
            pooling picked, or the other factor of a product.
        added: What a nonlinearity makes of zeros, where that is not zero.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[torch.Size, ...]
    frozen: Tensor | None = None
    added: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A forward pass.

    Attributes:
        wiring: What its operations do to channels.
        image: The image that was run, ``(1, 3, H, W)``.
        layers: By name, in order of execution.
        logits: ``(1, classes)``, part of the autograd graph.
        kept: What was kept of each operation that channels are followed through.
        activations: By layer, like `Layer.shape`; empty where an observer took them.
        preactivations: By layer what its weights give; empty where an observer took them.
    """

    wiring: Wiring
    image: Tensor
    layers: dict[str, Layer]
    logits: Tensor
    kept: dict[fx.Node, Kept]
    activations: dict[str, Tensor] = field(default_factory=dict)
    preactivations: dict[str, Tensor] = field(default_factory=dict)

    @property
    def output_layer(self) -> str:
        """The layer whose channels are the classes."""
        return self.wiring.output_layer


def record(module: nn.Module, e: Tensor, *, observer: LayerObserver | None = None) -> Recording:
    """Run ``module`` on a normalised image and keep what its circuit needs.

    Args:
        module: In evaluation mode.
        e: Normalised image ``(1, 3, H, W)``; it is run in the dtype of the weights.
        observer: Is handed each layer's activation and preactivation as soon as it has run; the
            recording then keeps neither.

    Raises:
        WiringError: The module cannot be traced, or does something to channels that is
            not understood; the message names the operation.
    """
    e = in_dtype_of(module, e)
    wiring = wire(capture(module, e))
    activations: dict[str, Tensor] = {}
    preactivations: dict[str, Tensor] = {}

    def keep(layer: Layer, activation: Tensor, preactivation: Tensor) -> None:
        activations[layer.name], preactivations[layer.name] = activation, preactivation

    recorder = _Recorder(wiring, observer or keep)
    Interpreter(wiring.program, observe=recorder)(module, e)
    return Recording(
        wiring=wiring,
        image=e.detach(),
        layers=recorder.layers,
        logits=recorder.logits,
        kept=recorder.kept,
        activations=activations,
        preactivations=preactivations,
    )


class _Recorder:
    """Keeps of each operation what is needed later, and tells of each layer that has run."""

    def __init__(self, wiring: Wiring, observer: LayerObserver) -> None:
        self.wiring = wiring
        self.observer = observer
        self.kept: dict[fx.Node, Kept] = {}
        self.layers: dict[str, Layer] = {}
        self.preactivations: dict[str, Tensor] = {}
        self.logits = torch.empty(0)
        self.finished = {site.activation: name for name, site in wiring.sites.items()}

    def __call__(self, call: Call, result: Any) -> None:
        step = self.wiring.steps.get(call.node)
        if step is not None:
            with torch.no_grad():
                self.kept[call.node] = _kept(call, step, result)
            if step.kind in (Kind.LAYER, Kind.ATTENTION, Kind.LOGITS):
                assert step.owner is not None
                self.preactivations[step.owner] = result
        if call.node in self.finished:
            self._finish(self.finished[call.node], result)
        if call.node is self.wiring.logits:
            self.logits = result

    def _finish(self, name: str, activation: Tensor) -> None:
        site = self.wiring.sites[name]
        scale = activation.new_ones(activation.shape[site.axis])
        for norm in site.norms:
            scale = scale * norm_scale(norm, self.kept[norm])
        layer = Layer(name=name, axis=site.axis, shape=activation.shape, scale=scale)
        self.layers[name] = layer
        self.observer(layer, activation, self.preactivations.pop(name))


def _kept(call: Call, step: Step, result: Any) -> Kept:
    n, names = call.node, set(step.sources)
    frozen = None
    # As long as a tensor holds a layer's own channels it is not followed: a flow starts behind it.
    if step.kind is Kind.NORM or (step.kind in _FROZEN and step.owner is None):
        frozen = _FROZEN[step.kind](n, call.args, result)
    if step.kind in (Kind.PRODUCT, Kind.SCALE):
        frozen = _factor(n, call.args, step.sources[0], result)
    added = None
    if step.kind is Kind.GATE and frozen is not None and operation(n) != "relu":
        zeros = call.args[0] == 0
        if bool((result[zeros] != 0).any()):
            added = torch.where(zeros, result, 0)
    return Kept(
        args=tuple(_without(a, value, names) for a, value in zip(n.args, call.args, strict=True)),
        kwargs={k: _without(n.kwargs[k], value, names) for k, value in call.kwargs.items()},
        shapes=tuple(each.shape for each in flat((result,))),
        frozen=frozen,
        added=added,
    )


def weight_and_bias(n: fx.Node, kept: Kept) -> tuple[Tensor, Tensor | None]:
    """Weight ``(out, in)`` and bias of a linear layer."""
    if operation(n) == "linear":
        bias = kept.args[2] if len(kept.args) > 2 else kept.kwargs.get("bias")
        return kept.args[1], bias
    return kept.args[1].T, None


def norm_scale(n: fx.Node, kept: Kept) -> Tensor:
    """The factor by which a batch, group or instance norm scales each channel, ``(channels,)``."""
    _, *rest = kept.args
    if operation(n) == "batch_norm":
        weight, _, _, variance, _, _, epsilon, *_ = rest
        scale: Tensor = (variance + epsilon).rsqrt()
    else:
        assert kept.frozen is not None
        place = 1 if operation(n) == "group_norm" else 0
        weight = rest[place] if len(rest) > place else None
        scale = kept.frozen.repeat_interleave(kept.shapes[0][1] // len(kept.frozen))
    return scale if weight is None else scale * weight


def _without(node: Any, value: Any, names: set[Any]) -> Any:
    """An argument's value, or the node itself where channels are followed through it."""
    if isinstance(node, tuple | list):
        return [_without(a, v, names) for a, v in zip(node, value, strict=True)]
    if isinstance(node, fx.Node) and node in names:
        return node
    return value.detach() if isinstance(value, Tensor) else value


def _gate(n: fx.Node, args: tuple[Any, ...], result: Tensor) -> Tensor:
    """Which share of each element passes a nonlinearity.

    For a ReLU it is 0 or 1, so that parts that add up to its input add up to its output.
    """
    before = args[0]
    if operation(n) == "relu":
        return result > 0  # it may have overwritten its input
    return torch.where(before == 0, torch.zeros_like(result), result / before)


def _picks(_: fx.Node, args: tuple[Any, ...], result: Any) -> Tensor:
    """Where in its plane a max pooling found each number."""
    if isinstance(result, tuple | list):
        return result[1]  # type: ignore[no-any-return]
    return torch.ops.aten.max_pool2d_with_indices(*args)[1]  # type: ignore[no-any-return]


def _highest(n: fx.Node, args: tuple[Any, ...], _: Any) -> Tensor:
    """1 where a maximum over some dimensions found its number, else 0."""
    x, dims = args[0], reduced_dims(n, args[0].ndim)
    order = [*(d for d in range(x.ndim) if d not in dims), *dims]
    moved = x.permute(order)
    rows = moved.flatten(x.ndim - len(dims))
    first = torch.zeros_like(rows).scatter_(-1, rows.argmax(-1, keepdim=True), 1)
    return first.view(moved.shape).permute([order.index(d) for d in range(x.ndim)])


def _norm(n: fx.Node, args: tuple[Any, ...], _: Tensor) -> Tensor:
    """One over the standard deviation: of each position, or of each group of channels."""
    x = args[0]
    if operation(n) in ("layer_norm", "rms_norm"):
        if len(args[1]) != 1:
            raise not_understood(n)
        if operation(n) == "rms_norm":
            epsilon = args[3] if len(args) > 3 and args[3] is not None else torch.finfo(x.dtype).eps
            return (x.square().mean(-1) + epsilon).rsqrt()  # type: ignore[no-any-return]
        epsilon = args[4] if len(args) > 4 else 1e-5
        return (x.var(-1, correction=0) + epsilon).rsqrt()  # type: ignore[no-any-return]
    groups = args[1] if operation(n) == "group_norm" else x.shape[1]
    place = 4 if operation(n) == "group_norm" else 7
    epsilon = args[place] if len(args) > place else 1e-5
    return (x.reshape(groups, -1).var(1, correction=0) + epsilon).rsqrt()  # type: ignore[no-any-return]


def _factor(n: fx.Node, args: tuple[Any, ...], passing: fx.Node, result: Tensor) -> Tensor:
    """What a tensor is multiplied with."""
    if operation(n) == "neg":
        return result.new_tensor(-1.0)
    factor = args[1] if n.args[0] is passing else args[0]
    factor = factor.detach() if isinstance(factor, Tensor) else result.new_tensor(factor)
    return 1 / factor if operation(n) == "div" else factor


_FROZEN: dict[Kind, Callable[[fx.Node, tuple[Any, ...], Tensor], Tensor]] = {
    Kind.GATE: _gate,
    Kind.MAX_POOL: _picks,
    Kind.MAX: _highest,
    Kind.NORM: _norm,
}


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Measures of one layer's channels on one image, each ``(channels,)``.

    Attributes:
        activation: Mean over positions of the absolute activation.
        attribution: Mean over positions of activation × gradient of the class's logit.
    """

    activation: Tensor
    attribution: Tensor

    @property
    def relevance(self) -> Tensor:
        """``|mean over positions of activation × gradient|``."""
        return self.attribution.abs()


Selection = Callable[[str, Channels], Tensor]
"""From a layer's name and its channels' measures the indices of those that are active."""


@dataclass(frozen=True, kw_only=True)
class Active:
    """The channels of a layer that are looked at.

    Attributes:
        channels: Their indices, ``(n,)``.
        rows: Their activation, ``(n, *positions)``.
        gradient: Gradient of the logit by their preactivation, like ``rows``; None where nothing
            asks for it.
    """

    channels: Tensor
    rows: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run, and what it says of the channels.

    Attributes:
        recording: The run.
        channels: Measures of every layer's channels, and of the image's colours.
        active: The channels that were selected, with what following them needs.
    """

    recording: Recording
    channels: dict[str, Channels]
    active: dict[str, Active]


def measure(
    module: nn.Module, e: Tensor, label: int, selection: Selection, *, gradients: bool = False
) -> Measured:
    """Run a classifier on an image, and go back from the logit of a class.

    Each layer's gradient is reduced to its channels' measures as soon as the backward pass has
    it, so that the gradients of all layers are never in memory together.

    Args:
        module: Frozen.
        e: Normalised image ``(1, 3, H, W)``.
        label: Index of the class.
        selection: Says which channels of a layer are active; of the classes, ``label`` is.
        gradients: Whether the gradient by the active channels' preactivations is kept.

    Raises:
        WiringError: The module cannot be followed, or no gradient gets to the image.
    """
    image = in_dtype_of(module, e).detach().requires_grad_()
    meter = _Meter(selection, gradients)
    meter.watch(INPUT, 1, image)
    with torch.enable_grad():
        recording = record(module, image, observer=meter.watch_layer)
    meter.fixed[recording.output_layer] = torch.tensor([label])
    if not recording.logits.requires_grad:
        raise WiringError("no gradient gets from the logits to the image")
    torch.autograd.grad(recording.logits[0, label], image, allow_unused=True)
    return meter.measured(recording)


def mean_product(activation: Tensor, gradient: Tensor) -> Tensor:
    """Mean over positions of activation × gradient ``(channels, *positions)``: an attribution."""
    rows = activation.flatten(1)
    product: Tensor = torch.linalg.vecdot(rows, gradient.flatten(1))
    return product / rows.shape[1]


class _Meter:
    """Takes the measures of each layer as the passes get to it."""

    def __init__(self, selection: Selection, gradients: bool) -> None:
        self.selection = selection
        self.gradients = gradients
        self.fixed: dict[str, Tensor] = {}
        self._channels: dict[str, Channels] = {}
        self._active: dict[str, Active] = {}
        self._rows: dict[str, Tensor] = {}
        self._activations: dict[str, Tensor] = {}
        self._by_preactivation: dict[str, Tensor] = {}

    def watch(self, name: str, axis: int, activation: Tensor) -> None:
        rows = activation.detach().movedim(axis, 0)
        # At once, while it is in the processor's cache.
        self._activations[name] = rows.flatten(1).abs().mean(1)
        self._rows[name] = rows
        if activation.requires_grad:  # else what the image does not reach
            activation.register_hook(lambda gradient: self._reduce(name, gradient.movedim(axis, 0)))

    def watch_layer(self, layer: Layer, activation: Tensor, preactivation: Tensor) -> None:
        self.watch(layer.name, layer.axis, activation)
        if self.gradients:

            def keep(gradient: Tensor) -> None:
                chosen = self._active[layer.name].channels
                self._by_preactivation[layer.name] = layer.rows(gradient)[chosen]

            if preactivation.requires_grad:
                preactivation.register_hook(keep)

    def _reduce(self, name: str, gradient: Tensor | None) -> None:
        rows = self._rows.pop(name)
        attribution = torch.zeros_like(self._activations[name])
        if gradient is not None:
            attribution = mean_product(rows, gradient)
        measures = Channels(activation=self._activations.pop(name), attribution=attribution)
        self._channels[name] = measures
        chosen = self.fixed[name] if name in self.fixed else self.selection(name, measures)
        chosen = chosen.to(rows.device)
        self._active[name] = Active(channels=chosen, rows=rows[chosen])

    def measured(self, recording: Recording) -> Measured:
        """All that was measured, in the order of execution."""
        # What the backward pass did not reach has no gradient.
        for name in list(self._rows):
            self._reduce(name, None)
        names = [INPUT, *recording.layers]
        return Measured(
            recording=recording,
            channels={name: self._channels[name] for name in names},
            active={
                name: replace(self._active[name], gradient=self._by_preactivation.get(name))
                for name in names
            },
        )
