"""Along which dimensions of each tensor its channels lie, as far as shapes alone can tell.

Every tensor that channels are followed through has *labels*: for each of its elements, on one
image, the channel that it shows. They are numbers without a meaning of their own; what counts is
where they differ.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import PADDING, reduced_dims

Labels = Tensor | list[Tensor] | None
"""Of a tensor, or of the tensors into which one was split; None where shapes do not tell."""


def side(length: Any) -> int:
    """A length on one image: of the batch's dimension it is traced as an expression."""
    if isinstance(length, int):
        return length
    expression = length.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def shape_of(n: fx.Node) -> tuple[int, ...]:
    """The shape of an operation's result on one image; of the first one, where it has several."""
    value = n.meta["val"]
    if isinstance(value, tuple | list):
        value = value[0]
    return tuple(side(length) for length in value.shape)


def axes_of(labels: Labels) -> list[int] | None:
    """The dimensions along which the channels of a tensor lie."""
    if not isinstance(labels, Tensor):
        return None
    return [
        d for d in range(labels.ndim) if bool((labels != labels.narrow(d, 0, 1)).any())
    ]  # fmt: skip


def count(labels: Labels) -> int:
    """How many channels a tensor has, as far as is known."""
    core = _core(labels)
    return 0 if core is None else core.numel()


def fresh(n: fx.Node, axis: int) -> Tensor:
    """Labels of channels that begin at an operation, along one dimension."""
    shape = shape_of(n)
    axis %= len(shape)
    return (
        torch.arange(shape[axis])
        .view([-1 if d == axis else 1 for d in range(len(shape))])
        .expand(shape)
    )


def kept_apart(n: fx.Node, labels: Labels) -> Labels:
    """Behind an operation that lets every channel be along the dimensions where it was.

    Positions may be more or fewer than before, and dimensions may be added in front.
    """
    core, shape = _core(labels), shape_of(n)
    if core is None or core.ndim > len(shape):
        return None
    core = core.view([*[1] * (len(shape) - core.ndim), *core.shape])
    if any(a not in (1, b) for a, b in zip(core.shape, shape, strict=True)):
        return None
    found = core.expand(shape)
    return [found] if isinstance(n.meta["val"], tuple | list) else found


def reduced(n: fx.Node, source: fx.Node, labels: Labels) -> Labels:
    """Behind a sum, a mean or a maximum over some dimensions."""
    core, ndim = _core(labels), len(shape_of(source))
    if core is None:
        return None
    core = core.amin(reduced_dims(n, ndim), keepdim=len(shape_of(n)) == ndim)
    return kept_apart(n, core)


def joined(n: fx.Node, labels: Mapping[fx.Node, Labels]) -> Labels:
    """Behind a concatenation."""
    parts: Any = n.args[0]
    dim: Any = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
    dim %= len(shape_of(n))
    known = {part: own for part in parts if isinstance(own := labels.get(part), Tensor)}
    if not any(dim in (axes_of(own) or []) for own in known.values()):
        return kept_apart(n, next(iter(known.values()), None))
    found, offset = [], 0
    for part in parts:
        own = known.get(part, torch.zeros(shape_of(part), dtype=torch.long))
        found.append(own + offset)
        offset += int(own.max()) + 1
    return torch.cat(found, dim)


def patched(n: fx.Node, labels: Labels) -> Labels:
    """Behind ``im2col``, or ``col2im`` that takes it back: every channel has a place of a patch."""
    core, shape = _core(labels), shape_of(n)
    if core is None or core.numel() != core.shape[1]:
        return None
    channels, count = core.flatten(), shape[1]
    if count >= len(channels):
        channels = channels.repeat_interleave(count // len(channels))
    else:
        channels = channels[:: len(channels) // count]
    return channels.view([1, -1, *[1] * (len(shape) - 2)]).expand(shape)


def moved(n: fx.Node, source: fx.Node, labels: Labels) -> Labels:
    """Behind a change of shape: it is run on the labels."""
    if isinstance(labels, list):
        return labels[n.args[1]]  # type: ignore[index]
    if labels is None:
        return None
    # What is filled in is no channel's.
    if operation(n) in PADDING and (padded := kept_apart(n, labels)) is not None:
        return padded
    others = [a for a in n.all_input_nodes if a is not source]
    if any(isinstance(a.meta["val"], Tensor) for a in others) and not operation(n).endswith("_as"):
        return None  # an index that is known only when it is run

    def given(a: fx.Node) -> Any:
        if a is source:
            return labels.double().contiguous()
        value = a.meta["val"]
        return torch.zeros(shape_of(a)) if isinstance(value, Tensor) else side(value)

    args, kwargs = fx.node.map_arg(n.args, given), fx.node.map_arg(n.kwargs, given)
    result = n.target(*args, **kwargs)  # type: ignore[operator]
    if isinstance(result, tuple | list):
        return [part.long() for part in result]
    return result.long()  # type: ignore[no-any-return]


def attended(n: fx.Node, values: fx.Node, labels: Labels) -> Labels:
    """Behind a product of matrices one of which, the values, is followed."""
    core, shape = _core(labels), shape_of(n)
    if core is None or core.ndim != len(shape):
        return None
    contracted = core.ndim - (1 if n.args[0] is values else 2)
    if core.shape[contracted] > 1:
        # Channels attend to channels: each of the new ones is made of all of its head's.
        width = shape[contracted]
        new = _numbers(width, contracted, core.ndim)
        core = core.amin(contracted, keepdim=True) * width + new
    return kept_apart(n, core)


def _numbers(count: int, axis: int, ndim: int) -> Tensor:
    """From 0 along one of so many dimensions."""
    return torch.arange(count).view([-1 if d == axis else 1 for d in range(ndim)])


def _core(labels: Labels) -> Tensor | None:
    """Labels of one position."""
    axes = axes_of(labels)
    if axes is None:
        return None
    assert isinstance(labels, Tensor)
    for d in set(range(labels.ndim)) - set(axes):
        labels = labels.narrow(d, 0, 1)
    return labels
