"""How flows pass an operation that keeps each channel's place: a function for each kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits import flows as fl
from expcam.circuits.flows import CONSTANT, Flow
from expcam.circuits.program import operation
from expcam.circuits.reading import weight_and_bias
from expcam.circuits.recording import Kept, norm_scale
from expcam.circuits.tracking import Tracked
from expcam.circuits.wiring import Kind, not_understood


@dataclass(frozen=True, kw_only=True)
class Passage:
    """An operation on one tensor whose channels are along one dimension.

    Attributes:
        n: The operation.
        kept: What was kept of its run.
        source: The tensor.
        constants: Whether what the operation adds by itself is followed too.
    """

    n: fx.Node
    kept: Kept
    source: Tracked
    constants: bool

    def __call__(self, kind: Kind) -> Tracked:
        """The tensor that the operation gives.

        Raises:
            WiringError: The operation mixes channels after all.
        """
        flows = _PASSING[kind](self)
        return tracked(flows, self.kept.shapes[0], self._axis_after())

    def _axis_after(self) -> int:
        """A mean over dimensions before that of the channels moves it."""
        ndim, after = len(self.source.shape), len(self.kept.shapes[0])
        if ndim == after:
            return self.source.axis
        return self.source.axis - sum(d < self.source.axis for d in self.reduced())

    def reduced(self) -> list[int]:
        """Over which dimensions a mean or a sum is."""
        args = self.kept.args
        dims: Any = args[1] if len(args) > 1 else self.kept.kwargs.get("dim")
        ndim = len(self.source.shape)
        return [d % ndim for d in dims] if dims else list(range(ndim))

    def plus(self, flows: list[Flow], constant: Tensor | None) -> list[Flow]:
        """Add what the operation adds by itself, ``(channels,)``."""
        if not self.constants or constant is None:
            return flows
        positions = [side for d, side in enumerate(self.kept.shapes[0]) if d != self.source.axis]
        return [*flows, *constant_flow(constant.view(-1, *[1] * len(positions)), positions)]


def tracked(flows: list[Flow], shape: torch.Size, axis: int) -> Tracked:
    """A tensor whose channels are along one of its dimensions."""
    positions = torch.Size(side for d, side in enumerate(shape) if d != axis)
    return Tracked(flows, shape[axis], positions, shape, axis)


def constant_flow(rows: Tensor, positions: Any) -> list[Flow]:
    """What does not depend on the image, ``(channels, *positions)``, as a flow."""
    rows = rows.expand(-1, *positions)
    return [fl.whole(CONSTANT, rows, torch.arange(len(rows), device=rows.device))]


def _batch_norm(passage: Passage) -> list[Flow]:
    scale = norm_scale(passage.n, passage.kept)
    _, _, bias, mean, *_ = passage.kept.args
    constant = -mean * scale if bias is None else bias - mean * scale
    return passage.plus([fl.scaled(flow, scale) for flow in passage.source.flows], constant)


def _norm(passage: Passage) -> list[Flow]:
    if operation(passage.n) == "layer_norm":
        return _layer_norm(passage)
    frozen, count = passage.kept.frozen, passage.source.count
    assert frozen is not None
    place = 3 if operation(passage.n) == "group_norm" else 2
    bias = (*passage.kept.args[place:], None)[0]
    scale = norm_scale(passage.n, passage.kept)
    group = count // len(frozen)
    flows = [fl.scaled(flow, scale) for flow in passage.source.flows]
    for flow in passage.source.flows:
        # The mean over a group's channels and positions is taken from all of them.
        mix = flow.mixed(count)
        shared = mix.view(len(mix), -1, group).mean(2).repeat_interleave(group, 1)
        mean = flow.value.flatten(1).mean(1).view(-1, *[1] * len(flow.positions))
        flows.append(
            Flow(
                source=flow.source,
                channels=flow.channels,
                value=-mean.expand_as(flow.value),
                scale=flow.scale,
                mix=shared * scale,
            )
        )
    return passage.plus(flows, bias)


def _layer_norm(passage: Passage) -> list[Flow]:
    frozen, count = passage.kept.frozen, passage.source.count
    assert frozen is not None
    weight, bias = (*passage.kept.args[2:4], None, None)[:2]
    flows = [fl.weighted(fl.centred(flow, count), frozen) for flow in passage.source.flows]
    if weight is not None:
        flows = [fl.scaled(flow, weight) for flow in flows]
    return passage.plus(flows, bias)


def _projection(passage: Passage) -> list[Flow]:
    weight, bias = weight_and_bias(passage.n, passage.kept)
    return passage.plus([fl.projected(flow, weight) for flow in passage.source.flows], bias)


def _gate(passage: Passage) -> list[Flow]:
    assert passage.kept.frozen is not None
    gate = passage.kept.frozen.movedim(passage.source.axis, 0)
    return [fl.gated(flow, gate) for flow in passage.source.flows]


def _max_pool(passage: Passage) -> list[Flow]:
    assert passage.kept.frozen is not None
    picks = passage.kept.frozen.movedim(1, 0)
    return [fl.picked(flow, picks) for flow in passage.source.flows]


def _depthwise(passage: Passage) -> list[Flow]:
    _, weight, bias, *options = (*passage.kept.args, None)[: max(3, len(passage.kept.args))]

    def convolve(value: Tensor, kernels: Tensor) -> Tensor:
        convolved: Tensor = torch.ops.aten.conv2d(
            value, kernels, None, *options[:3], groups=len(kernels)
        )
        return convolved

    flows = [fl.depthwise(flow, weight, convolve) for flow in passage.source.flows]
    return passage.plus(flows, bias)


def _average(passage: Passage) -> list[Flow]:
    name = operation(passage.n)
    args, kwargs = passage.kept.args, passage.kept.kwargs
    if name not in ("mean", "sum"):
        return [
            fl.mapped(flow, lambda value: passage.n.target(value, *args[1:], **kwargs))  # type: ignore[operator]
            for flow in passage.source.flows
        ]
    dims, axis = passage.reduced(), passage.source.axis
    if axis in dims:
        raise not_understood(passage.n)
    keep = len(passage.kept.shapes[0]) == len(passage.source.shape)
    # In a flow's value the rows come first, then the positions.
    places = [d + 1 if d < axis else d for d in dims]
    reduce = torch.mean if name == "mean" else torch.sum
    return [
        fl.mapped(flow, lambda value: reduce(value, places, keep)) for flow in passage.source.flows
    ]


_PASSING: dict[Kind, Callable[[Passage], list[Flow]]] = {
    Kind.BATCH_NORM: _batch_norm,
    Kind.NORM: _norm,
    Kind.PROJECTION: _projection,
    Kind.GATE: _gate,
    Kind.MAX_POOL: _max_pool,
    Kind.DEPTHWISE: _depthwise,
    Kind.AVERAGE: _average,
}
