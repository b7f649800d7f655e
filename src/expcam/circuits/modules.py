"""Circuits of classifiers whose wiring is not understood, read at their modules with hooks.

Nothing is known of how channels get from one module to the next, so everything comes from
gradients: between two convolutions or linear layers the classifier is taken as linear around this
image.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from expcam.circuits.flows import INPUT
from expcam.circuits.measuring import Selection, worth
from expcam.circuits.scores import Channels
from expcam.errors import ClassifierError

MIXING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
LOGITS = "logits"
"""Stands for the layer of the classes, where no module's output is the logits."""


@dataclass(frozen=True, kw_only=True)
class ModuleEdge:
    """What channels of one module's output do to a channel of another's.

    Attributes:
        source: The module that gives.
        target: The module that receives, and its channel.
        sources: Channels that give, ``(sources,)``.
        weight: Summed absolute gradient of the target's mean output by each, ``(sources,)``.
        signed: That gradient times the source's output, summed.
    """

    source: str
    target: tuple[str, int]
    sources: Tensor
    weight: Tensor
    signed: Tensor


@dataclass(kw_only=True)
class ModuleReading:
    """A circuit's raw material, read with hooks.

    Attributes:
        channels: Measures of each module's output, by name, in order of execution; the image's
            colours first.
        active: The channels that were selected.
        output_layer: The module whose channels are the classes, or ``LOGITS``.
        edges: Between active channels.
    """

    channels: dict[str, Channels]
    active: dict[str, Tensor]
    output_layer: str
    edges: list[ModuleEdge] = field(default_factory=list)


def read_modules(module: nn.Module, e: Tensor, label: int, selection: Selection) -> ModuleReading:
    """Run a classifier with hooks on its convolutions and linear layers.

    It takes two forward passes, one backward pass, and a short one for each active channel.

    Args:
        module: Frozen.
        e: Normalised image ``(1, 3, H, W)``.
        label: Index of the class.
        selection: Says which channels of a module are active; of the classes it is the one.

    Raises:
        ClassifierError: A module is used twice, or no gradient reaches the image.
    """
    image = e.detach().requires_grad_()
    with torch.enable_grad():
        with _outputs(module, cut=False) as (outputs, _):
            logits = module(image)
        tensors = {INPUT: image, **outputs}
        gradients = torch.autograd.grad(logits[0, label], list(tensors.values()), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ClassifierError("no gradient gets from the logits to any module of the classifier")
    axes = {name: _axis(module, name) for name in tensors}
    reading = ModuleReading(channels={}, active={}, output_layer=LOGITS)
    for (name, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        rows = tensor.detach().movedim(axes[name], 0)
        signed = rows.new_zeros(len(rows))
        if gradient is not None:
            signed = worth(rows, gradient.movedim(axes[name], 0))
        activation = rows.abs().flatten(1).mean(1)
        reading.channels[name] = Channels(activation=activation, signed=signed)
        if tensor.shape == logits.shape and torch.equal(tensor, logits):
            reading.output_layer = name
    output = reading.output_layer
    if output == LOGITS:
        own = logits.detach()[0]
        reading.channels[LOGITS] = Channels(activation=own.abs(), signed=own)
    for name, channels in reading.channels.items():
        chosen = torch.tensor([label]) if name == output else selection(name, channels)
        reading.active[name] = chosen.to(e.device)
    reading.edges = list(_edges(module, image, reading, axes))
    return reading


def _edges(
    module: nn.Module, image: Tensor, reading: ModuleReading, axes: dict[str, int]
) -> Iterator[ModuleEdge]:
    """Cut the classifier behind each module, so that gradients get to the nearest ones only."""
    with torch.enable_grad(), _outputs(module, cut=True) as (outputs, leaves):
        logits = module(image)
    if reading.output_layer == LOGITS:
        outputs[LOGITS] = logits
        axes = {**axes, LOGITS: 1}
    sources = {INPUT: image, **leaves}
    for name, output in outputs.items():
        for channel in reading.active[name].tolist():
            mean = output.movedim(axes[name], 0)[channel].mean()
            gradients = torch.autograd.grad(
                mean, list(sources.values()), allow_unused=True, retain_graph=True
            )
            for (source, leaf), gradient in zip(sources.items(), gradients, strict=True):
                chosen = reading.active[source]
                if gradient is None or not len(chosen):
                    continue
                rows = gradient.movedim(axes[source], 0)[chosen].flatten(1)
                values = leaf.detach().movedim(axes[source], 0)[chosen].flatten(1)
                yield ModuleEdge(
                    source=source,
                    target=(name, channel),
                    sources=chosen,
                    weight=rows.abs().sum(1),
                    signed=(rows * values).sum(1),
                )


@contextmanager
def _outputs(
    module: nn.Module, *, cut: bool
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Note what each mixing module gives; cut off, what follows sees a leaf of its own."""
    outputs: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}
    handles = []

    def watch(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
            if name in outputs:
                raise ClassifierError(
                    f"layer `{name}` is used twice, which the readout cannot tell apart"
                )
            outputs[name] = output
            if not cut:
                return None
            leaves[name] = output.detach().requires_grad_()
            return leaves[name].clone()  # what follows may overwrite it

        return hook

    try:
        for name, each in module.named_modules():
            if isinstance(each, MIXING):
                handles.append(each.register_forward_hook(watch(name)))
        yield outputs, leaves
    finally:
        for handle in handles:
            handle.remove()


def _axis(module: nn.Module, name: str) -> int:
    return -1 if name != INPUT and isinstance(module.get_submodule(name), nn.Linear) else 1
