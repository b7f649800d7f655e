"""One forward and one backward pass: what each channel of each layer did and was worth."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expcam.circuits.flows import INPUT
from expcam.circuits.reading import Active
from expcam.circuits.recording import Layer, Recording, record
from expcam.circuits.scores import Channels

Selection = Callable[[str, Channels], Tensor]
"""From a layer's name and its channels' measures the indices of those that are active."""


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
    """Run a classifier on an image, and back from the logit of a class.

    Each layer's gradient is reduced as soon as the backward pass has it.

    Args:
        module: Frozen.
        e: Normalised image ``(1, 3, H, W)``.
        label: Index of the class.
        selection: Says which channels of a layer are active; of the classes it is the one.
        gradients: Whether the gradient by the active channels' preactivations is kept.

    Raises:
        WiringError: The module cannot be followed.
    """
    image = e.detach().requires_grad_()
    meter = _Meter(selection, gradients)
    meter.watch(INPUT, 1, image)
    with torch.enable_grad():
        recording = record(module, image, observer=meter.watch_layer)
    meter.fixed[recording.output_layer] = torch.tensor([label])
    torch.autograd.grad(recording.logits[0, label], image, allow_unused=True)
    meter.finish(recording)
    return Measured(recording=recording, channels=meter.channels, active=meter.active)


def worth(activation: Tensor, gradient: Tensor) -> Tensor:
    """Mean of activation × gradient ``(channels, *positions)`` over positions."""
    rows = activation.flatten(1)
    product: Tensor = torch.linalg.vecdot(rows, gradient.flatten(1))
    return product / rows.shape[1]


class _Meter:
    """Takes the measures of each layer as the passes get to it."""

    def __init__(self, selection: Selection, gradients: bool) -> None:
        self.selection = selection
        self.gradients = gradients
        self.fixed: dict[str, Tensor] = {}
        self.channels: dict[str, Channels] = {}
        self.active: dict[str, Active] = {}
        self._rows: dict[str, Tensor] = {}
        self._activations: dict[str, Tensor] = {}
        self._of_preactivations: dict[str, Tensor] = {}

    def watch(self, name: str, axis: int, activation: Tensor) -> None:
        rows = activation.detach().movedim(axis, 0).flatten(1)
        # At once, while it is in the processor's cache.
        self._activations[name] = rows.abs().mean(1)
        self._rows[name] = activation.detach().movedim(axis, 0)
        activation.register_hook(lambda gradient: self._reduce(name, gradient.movedim(axis, 0)))

    def watch_layer(self, layer: Layer, activation: Tensor, preactivation: Tensor) -> None:
        self.watch(layer.name, layer.axis, activation)
        if self.gradients:

            def keep(gradient: Tensor) -> None:
                chosen = self.active[layer.name].channels
                self._of_preactivations[layer.name] = layer.rows(gradient)[chosen]

            preactivation.register_hook(keep)

    def _reduce(self, name: str, gradient: Tensor | None) -> None:
        rows = self._rows.pop(name)
        signed = torch.zeros_like(self._activations[name])
        if gradient is not None:
            signed = worth(rows, gradient)
        measures = Channels(activation=self._activations.pop(name), signed=signed)
        self.channels[name] = measures
        chosen = self.fixed[name] if name in self.fixed else self.selection(name, measures)
        chosen = chosen.to(rows.device)
        self.active[name] = Active(channels=chosen, rows=rows[chosen])

    def finish(self, recording: Recording) -> None:
        """What the backward pass did not reach is worth nothing; put all in order."""
        for name in list(self._rows):
            self._reduce(name, None)
        names = [INPUT, *recording.layers]
        self.channels = {name: self.channels[name] for name in names}
        self.active = {
            name: Active(
                channels=self.active[name].channels,
                rows=self.active[name].rows,
                gradient=self._of_preactivations.get(name),
            )
            for name in names
        }
