"""Edges of classifiers whose wiring is not understood, read at their modules with hooks.

Nothing is known of how channels get from one module to the next. So gradients stand in for
weights: between two convolutions or linear layers the classifier is taken as linear around this
image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from expcam.circuits.edges.layers import Contribution
from expcam.circuits.trace.program import in_dtype_of
from expcam.circuits.trace.recording import INPUT, Channels, Selection, mean_product
from expcam.circuits.trace.wiring import AGAIN, LOGITS, use_of
from expcam.errors import ClassifierError

MIXING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(kw_only=True)
class ModuleReading:
    """A circuit's raw material, read with hooks.

    Attributes:
        channels: Measures of each module's output, by name, in order of execution; the image's
            colours first.
        active: The channels that were selected.
        output_layer: The module whose channels are the classes, or ``LOGITS``.
        edges: From the active channels of one module to one of another. The gradient of the
            target's mean by each channel stands for the weights of that edge.
    """

    channels: dict[str, Channels]
    active: dict[str, Tensor]
    output_layer: str
    edges: list[Contribution] = field(default_factory=list)


def read_modules(
    module: nn.Module,
    e: Tensor,
    label: int,
    selection: Selection,
    *,
    gradients: bool = False,
    linked: bool = True,
) -> ModuleReading:
    """Run a classifier with hooks on its convolutions and linear layers.

    It takes two forward passes, one backward pass, and a short one for each active channel, or
    two where ``gradients`` are asked for.

    Args:
        module: Frozen.
        e: Normalised image ``(1, 3, H, W)``.
        label: Index of the class.
        selection: Says which channels of a module are active; of the classes it is the one.
        gradients: Whether edges have an ``attribution`` and a ``sensitivity``.
        linked: Whether there are edges at all.

    Raises:
        ClassifierError: No gradient reaches the image.
    """
    image = in_dtype_of(module, e).detach().requires_grad_()
    with torch.enable_grad():
        with _outputs(module, cut=False) as (outputs, _):
            logits = module(image)
        # A layer that the image does not reach, say of a learned query, carries nothing of it.
        tensors = {INPUT: image} | {k: each for k, each in outputs.items() if each.requires_grad}
        if not logits.requires_grad:
            raise ClassifierError(
                "no gradient gets from the logits to any module of the classifier"
            )
        found = torch.autograd.grad(logits[0, label], list(tensors.values()), allow_unused=True)
    if all(gradient is None for gradient in found):
        raise ClassifierError("no gradient gets from the logits to any module of the classifier")
    axes = {name: axis_of(module, name) for name in tensors}
    by_logit = {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
    }
    reading = ModuleReading(channels={}, active={}, output_layer=LOGITS)
    for name, tensor in tensors.items():
        rows = tensor.detach().movedim(axes[name], 0)
        reading.channels[name] = Channels(
            activation=rows.abs().flatten(1).mean(1),
            attribution=mean_product(rows, by_logit[name].movedim(axes[name], 0)),
        )
        if tensor.shape == logits.shape and torch.equal(tensor, logits):
            reading.output_layer = name
    output = reading.output_layer
    if output == LOGITS:
        own = logits.detach()[0]
        reading.channels[LOGITS] = Channels(activation=own.abs(), attribution=own)
        axes[LOGITS], by_logit[LOGITS] = 1, torch.ones_like(logits)
    for name, channels in reading.channels.items():
        chosen = torch.tensor([label]) if name == output else selection(name, channels)
        reading.active[name] = chosen.to(e.device)
    if linked:
        reading.edges = list(_edges(module, image, reading, axes, by_logit if gradients else None))
    return reading


def _edges(
    module: nn.Module,
    image: Tensor,
    reading: ModuleReading,
    axes: dict[str, int],
    by_logit: dict[str, Tensor] | None,
) -> Iterator[Contribution]:
    """Cut the classifier behind each module, so that gradients get to the nearest ones only."""
    with torch.enable_grad(), _outputs(module, cut=True) as (outputs, leaves):
        logits = module(image)
    if reading.output_layer == LOGITS:
        outputs[LOGITS] = logits
    sources = {INPUT: image} | {name: leaf for name, leaf in leaves.items() if name in axes}
    for name, output in outputs.items():
        if name not in axes:
            continue
        for channel in reading.active[name].tolist():
            rows = output.movedim(axes[name], 0)[channel]
            weights = _gradients(rows.mean(), sources)
            pulled: dict[str, Tensor] = {}
            sensitivity = None
            if by_logit is not None:
                there = by_logit[name].movedim(axes[name], 0)[channel]
                pulled = _gradients((rows * there).sum(), sources)
                sensitivity = there.abs().sum()[None]
            for source, weight in weights.items():
                chosen = reading.active[source]
                if not len(chosen):
                    continue
                values = _rows(sources[source], axes[source], chosen)
                factors = _rows(weight, axes[source], chosen)
                attribution = None
                if source in pulled:
                    by_source = _rows(pulled[source], axes[source], chosen)
                    attribution = (by_source * values).sum(1)[None]
                yield Contribution(
                    source=source,
                    target=name,
                    sources=chosen,
                    targets=torch.tensor([channel]),
                    weight=factors.abs().sum(1)[None],
                    signed=(factors * values).sum(1)[None],
                    attribution=attribution,
                    sensitivity=sensitivity,
                    columns=None,
                )


def _rows(tensor: Tensor, axis: int, chosen: Tensor) -> Tensor:
    """Some channels of a tensor, ``(channels, positions)``."""
    return tensor.detach().movedim(axis, 0)[chosen].flatten(1)


def _gradients(value: Tensor, sources: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a number by those tensors that it depends on."""
    found = torch.autograd.grad(value, list(sources.values()), allow_unused=True, retain_graph=True)
    return {
        name: gradient
        for name, gradient in zip(sources, found, strict=True)
        if gradient is not None
    }


@contextmanager
def _outputs(
    module: nn.Module, *, cut: bool
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Note what each mixing module gives; cut off, what follows sees a leaf of its own."""
    outputs: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def watch(name: str, output: Tensor) -> Tensor | None:
        outputs[name] = output
        if not cut:
            return None
        leaves[name] = output.detach().requires_grad_()
        return leaves[name].clone()  # what follows may overwrite it

    with at_modules(module, watch):
        yield outputs, leaves


@contextmanager
def at_modules(module: nn.Module, change: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Hand what each mixing module gives to a function, with the module's name.

    Args:
        module: The classifier.
        change: May give what follows is to see instead.
    """
    handles = []

    def watch(name: str) -> Any:
        uses = count(1)
        return lambda _, __, output: change(use_of(name, next(uses)), output)

    try:
        for name, each in module.named_modules():
            if isinstance(each, MIXING):
                handles.append(each.register_forward_hook(watch(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def axis_of(module: nn.Module, name: str) -> int:
    """The dimension of the channels of what a module gives."""
    layer = name.partition(AGAIN)[0]
    return -1 if name != INPUT and isinstance(module.get_submodule(layer), nn.Linear) else 1
