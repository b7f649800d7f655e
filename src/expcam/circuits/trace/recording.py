"""Run a classifier once: what its circuit needs of each layer, and of the way back.

`record` keeps what happens on the way from the image to the logits. `measure` also goes back from
the logit of a class, and tells how much each channel mattered.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from expcam.circuits.trace.freezing import Kept, keep, norm_scale
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.program import Call, Interpreter, capture, in_dtype_of
from expcam.circuits.trace.wiring import Wiring, wire
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

    def note(layer: Layer, activation: Tensor, preactivation: Tensor) -> None:
        activations[layer.name], preactivations[layer.name] = activation, preactivation

    recorder = _Recorder(wiring, observer or note)
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
                self.kept[call.node] = keep(call, step, result)
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
