"""Channels with a gate: each input of a batch keeps some, and sees a reference in place of others.

``a' = g · a + (1 − g) · r`` with gate ``g`` in ``[0, 1]`` and reference ``r``, in every layer at
once, where the layer's activation is complete.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, fx, nn

from expcam.circuits.edges.gradients import at_modules, axis_of
from expcam.circuits.trace.faster import in_bfloat16
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.program import Call, Interpreter, Override, in_dtype_of
from expcam.circuits.trace.recording import Recording, record
from expcam.circuits.trace.wiring import Wiring
from expcam.classifier.model import BATCH, BATCH_ON_CPU
from expcam.errors import WiringError
from expcam.search.engine import FORWARD

Reference = Mapping[str, Tensor]
"""By layer what stands in the place of its channels, for all inputs or for each: ``(1 or inputs,
…)``, the other sides as in the activation on one image, or 1 where positions do not differ."""
Change = Callable[[str, Tensor], Tensor]
"""From a layer's name and its activation on a batch what the next layers are to see."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a layer's channels lie in its activation.

    Attributes:
        axis: The dimension of the channels.
        batch: The dimension of the batch. Windows or heads may lie side by side in it, too.
        shape: Of the activation on one image.
        features: Whether a channel is a head, whose features are the last dimension.
    """

    axis: int
    batch: int
    shape: torch.Size
    features: bool = False

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.shape[self.axis]

    def by_image(self, activation: Tensor) -> Tensor:
        """An activation on a batch, one image after the other: ``(images, *shape)``."""
        images = activation.shape[self.batch] // self.shape[self.batch]
        rows: Tensor = activation.unflatten(self.batch, (images, -1))
        return rows.movedim(self.batch, 0)

    def mean(self, activation: Tensor) -> Tensor:
        """Its mean over positions, one for each image: ``(images, …)``, the other sides 1."""
        kept = {self.axis, len(self.shape) - 1} if self.features else {self.axis}
        positions = [d + 1 for d in range(len(self.shape)) if d not in kept]
        rows = self.by_image(activation)
        return rows.mean(positions, keepdim=True) if positions else rows

    def replaced(self, activation: Tensor, keep: Tensor, reference: Tensor) -> Tensor:
        """The activation with what is not kept replaced.

        Args:
            activation: On a batch.
            keep: ``(1 or images, channels)``: 1 for what stays, 0 for what is replaced.
            reference: ``(1 or images, …)``, see `Reference`.
        """
        sides = [1] * len(self.shape)
        sides[self.axis] = self.channels
        gate = self._spread(keep.reshape(len(keep), *sides), activation)
        return torch.addcmul(self._spread(reference, activation) * (1 - gate), activation, gate)

    def without(self, channels: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """What sets one channel to zero in each image of a batch.

        Args:
            channels: Of the first image, the second, …; further ones stay as they are.
        """

        def zeroed(activation: Tensor) -> Tensor:
            images = activation.shape[self.batch] // self.shape[self.batch]
            keep = activation.new_ones(images, self.channels)
            keep[range(len(channels)), channels] = 0
            return self.replaced(activation, keep, self.nothing().to(activation))

        return zeroed

    def nothing(self) -> Tensor:
        """The reference zero."""
        sides = [side if d == self.axis else 1 for d, side in enumerate(self.shape)]
        return torch.zeros(1, *sides)

    def _spread(self, rows: Tensor, activation: Tensor) -> Tensor:
        """Values by image, laid out as the activation is."""
        merged = rows.movedim(0, self.batch).flatten(self.batch, self.batch + 1)
        size = merged.shape[self.batch]
        repeats = activation.shape[self.batch] // size
        if size == 1 or repeats == 1:
            return merged
        if rows.shape[self.batch + 1] == 1:  # the windows of an image lie side by side
            return merged.repeat_interleave(repeats, self.batch)
        return torch.cat([merged] * repeats, self.batch)


def batch_on(device: torch.device) -> int:
    """How many inputs run in one pass where no gradient is needed."""
    return BATCH_ON_CPU if device.type == "cpu" else BATCH


EXACT = "exact"
"""Channels are replaced behind their nonlinearity."""


class _Run(Protocol):
    slots: dict[str, Slot]

    def __call__(self, x: Tensor, change: Change) -> Tensor: ...


class _Traced:
    """Runs a classifier whose wiring is known: a channel is replaced behind its nonlinearity."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self._module = module
        recording = record(module, x[None])
        self._wiring = recording.wiring
        self._arguments = self._wiring.program.arguments(module, recording.image)
        self.slots = slots_of(recording)

    def __call__(self, x: Tensor, change: Change) -> Tensor:
        fast: Mapping[fx.Node, Override] = {}
        if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
            fast, x = self._in_bfloat16, x.contiguous(memory_format=torch.channels_last)
        return run_traced(self._wiring, self._module, self.slots, x, change, fast)

    @cached_property
    def _in_bfloat16(self) -> dict[fx.Node, Override]:
        apart = [self._wiring.sites[name].activation for name in self.slots]
        return in_bfloat16(self._wiring.program, self._arguments, apart)


class _Hooked:
    """Runs one whose wiring is not known: a channel is replaced where its module gives it."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self._module = module
        self.slots: dict[str, Slot] = {}

        def see(name: str, output: Tensor) -> None:
            axis = axis_of(module, name) % output.ndim
            if len(output) == 1:  # else positions lie along the batch
                self.slots[name] = Slot(axis=axis, batch=0, shape=output.shape)

        with at_modules(module, see):
            logits = module(in_dtype_of(module, x[None]))
        # What gives the logits is the decision itself.
        last = next(reversed(self.slots), None)
        if last is not None and self.slots[last].shape == logits.shape:
            del self.slots[last]

    def __call__(self, x: Tensor, change: Change) -> Tensor:
        def changed(name: str, output: Tensor) -> Tensor | None:
            return change(name, output) if name in self.slots else None

        with at_modules(self._module, changed):
            logits: Tensor = self._module(x)
        return logits


class Gates:
    """The channels of a classifier, each with a gate.

    Inside ``torch.autocast`` it is run faster, in bfloat16.

    Args:
        module: Gives plain logits (see `Classifier.network`); frozen.
        x: A normalised image ``(channels, H, W)``; only its shape counts.

    Attributes:
        counts: By layer how many channels it has.
        total: How many there are in all.
        wiring: ``exact``, or why channels are replaced at modules.
        passes: What running them took, in forward and backward passes.

    Raises:
        ClassifierError: Not even at its modules can channels be told apart.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self._module, self.wiring, self.passes = module, EXACT, 0.0
        self._run: _Run
        with torch.no_grad():
            try:
                self._run = _Traced(module, x)
            except WiringError as error:
                self._run, self.wiring = _Hooked(module, x), f"modules: {error}"
        self.slots = self._run.slots
        self.counts = {name: slot.channels for name, slot in self.slots.items()}
        self.total = sum(self.counts.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Values of all channels ``(…, total)`` by layer."""
        parts = flat.split(list(self.counts.values()), -1)
        return dict(zip(self.counts, parts, strict=True))

    def flat(self, by_layer: Mapping[str, Tensor]) -> Tensor:
        """Values by layer ``(…, channels)`` side by side, ``(…, total)``."""
        return torch.cat([by_layer[name] for name in self.counts], -1)

    def logits(self, x: Tensor, keep: Tensor, reference: Reference) -> Tensor:
        """Logits ``(inputs, classes)`` of inputs that keep some channels each.

        Args:
            x: Normalised images ``(inputs, channels, H, W)``.
            keep: ``(1 or inputs, total)``, between 0 and 1.
            reference: What stands in the place of the others.
        """
        gates = self.split(keep.to(x))
        slots = self.slots

        def replaced(name: str, activation: Tensor) -> Tensor:
            gate, instead = (each.to(activation) for each in (gates[name], reference[name]))
            return slots[name].replaced(activation, gate, instead)

        self.passes += len(x) * (1 if keep.requires_grad else FORWARD)
        return self._run(in_dtype_of(self._module, x), replaced).to(x.dtype)

    def means(self, x: Tensor) -> list[Reference]:
        """For each of some inputs ``(n, channels, H, W)`` its channels' means over positions."""
        return self._seen(x, lambda slot, activation: slot.mean(activation))

    def activations(self, x: Tensor) -> list[Reference]:
        """For each of some inputs its channels' activations."""
        return self._seen(x, lambda slot, activation: slot.by_image(activation))

    @torch.no_grad()
    def _seen(self, x: Tensor, of: Callable[[Slot, Tensor], Tensor]) -> list[Reference]:
        found: list[Reference] = []
        for some in x.split(batch_on(x.device)):
            seen: dict[str, Tensor] = {}

            def see(name: str, activation: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
                seen[name] = of(self.slots[name], activation).detach().clone()
                return activation

            self._run(in_dtype_of(self._module, some), see)
            self.passes += len(some) * FORWARD
            found += [
                {name: seen[name][i : i + 1] for name in self.counts} for i in range(len(some))
            ]
        return found

    def nothing(self) -> Reference:
        """The reference zero."""
        return {name: slot.nothing() for name, slot in self.slots.items()}


def slots_of(recording: Recording) -> dict[str, Slot]:
    """Where channels lie, for each layer of a run except that of the classes."""
    wiring = recording.wiring
    slots = {}
    for name, layer in recording.layers.items():
        if name == recording.output_layer:
            continue
        site = wiring.sites[name]
        shape = site.activation.meta["val"].shape
        batch = next((d for d, side in enumerate(shape) if not isinstance(side, int)), 0)
        features = wiring.steps[site.node].kind is Kind.ATTENTION
        slots[name] = Slot(axis=layer.axis, batch=batch, shape=layer.shape, features=features)
    return slots


def run_traced(
    wiring: Wiring,
    module: nn.Module,
    names: Iterable[str],
    x: Tensor,
    change: Change,
    instead: Mapping[fx.Node, Override] = MappingProxyType({}),
) -> Tensor:
    """Logits of a batch when the activations of some layers are changed.

    Args:
        wiring: The module's.
        module: The classifier.
        names: The layers.
        x: Normalised images ``(batch, channels, H, W)``.
        change: Of these layers.
        instead: What gives the results of some operations, before they are changed.
    """

    def changed(name: str, run: Override) -> Override:
        return lambda call: change(name, run(call))

    override = dict(instead)
    for name in names:
        node = wiring.sites[name].activation
        override[node] = changed(name, instead.get(node, Call.run))
    return Interpreter(wiring.program, override=override)(module, x)


def stacked(references: Sequence[Reference]) -> Reference:
    """References of one input each as one for a batch."""
    first = references[0]
    if all(each is first for each in references):
        return first
    return {name: torch.cat([each[name] for each in references]) for name in first}


def average(references: Sequence[Reference]) -> Reference:
    """Their mean."""
    return {
        name: torch.cat([each[name] for each in references]).mean(0, keepdim=True)
        for name in references[0]
    }
