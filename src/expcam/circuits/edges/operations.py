"""How channels pass an operation: a function for each kind of `Kind` that mixes none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.nn import functional as F

from expcam.circuits.edges import flow as fl
from expcam.circuits.edges.flow import Flow, constant_flow
from expcam.circuits.edges.tracked import Tracked, tracked
from expcam.circuits.trace.freezing import Kept, norm_scale, weight_and_bias
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import PADDING, REDUCING, Kind, option, reduced_dims
from expcam.circuits.trace.wiring import Step, not_understood

Followed = Tracked | list[Tracked]
"""A tensor whose channels are followed, or the tensors into which one was split."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """An operation that channels pass, and the tensors that they are in before it.

    Attributes:
        n: The operation.
        step: What it does to them.
        kept: What was kept of its run.
        before: The tensors, by the operations that gave them.
        like: A tensor of the dtype and the device of the run.
        constants: Whether what the operation adds by itself is followed too.
    """

    n: fx.Node
    step: Step
    kept: Kept
    before: Mapping[fx.Node, Followed]
    like: Tensor
    constants: bool

    def tensor(self, n: fx.Node) -> Tracked:
        """The tensor that another operation gave."""
        found = self.before[n]
        assert isinstance(found, Tracked)
        return found

    @property
    def source(self) -> Tracked:
        """The tensor that the channels are in; of several the first."""
        return self.tensor(self.step.sources[0])

    def after(self, axis: int, flows: list[Flow], constant: Tensor | None = None) -> Tracked:
        """The tensor that the operation gives.

        Args:
            axis: The dimension of its channels.
            flows: What its sources add to it.
            constant: What the operation itself adds to each channel, ``(channels,)``.
        """
        shape = self.kept.shapes[0]
        if self.constants and constant is not None:
            positions = [side for d, side in enumerate(shape) if d != axis]
            rows = constant.view(-1, *[1] * len(positions))
            flows = [*flows, *constant_flow(rows, positions)]
        return tracked(flows, shape, axis)


def passed(passage: Passage) -> Followed:
    """The tensor behind an operation.

    Raises:
        WiringError: The operation mixes channels after all.
    """
    return _PASSING[passage.step.kind](passage)


def _same(passage: Passage) -> Followed:
    return passage.before[passage.step.sources[0]]


def _reindex(passage: Passage) -> Followed:
    """A change of shape.

    It moves numbers without regard to what they are. So it is run on the numbers of the elements,
    where 0 stands for what is filled in.
    """
    n, kept = passage.n, passage.kept
    source = passage.before[passage.step.sources[0]]
    if isinstance(source, list):  # one of the tensors into which another was split
        part: Tracked = source[kept.args[1]]
        return part
    numbers = (source.numbered() + 1).double().contiguous()
    args, kwargs, filling = kept.args, kept.kwargs, 0.0
    if operation(n) in PADDING:
        place = 3 if operation(n) == "pad" else 2
        filling = option(n, place, "value", None) or 0.0
        args, kwargs = args[:place], {k: v for k, v in kwargs.items() if k != "value"}

    def given(a: Any) -> Any:
        if isinstance(a, fx.Node):
            return numbers
        return a.cpu() if isinstance(a, Tensor) else a

    moved = n.target(*map_aggregate(args, given), **map_aggregate(kwargs, given))  # type: ignore[operator]
    if isinstance(moved, tuple | list):
        return [source.shown(part.round().long() - 1) for part in moved]
    shown = source.shown(moved.round().long() - 1)
    if not filling:
        return shown
    shown, filled = shown.along(shown.natural_axis()), torch.zeros_like(moved)
    filled = filled.masked_fill(moved == 0, filling).to(passage.like)
    constant = _constant(passage, filled, shown.shape, shown.axis)
    return tracked([*shown.flows, *constant], shown.shape, shown.axis)


def _fold(passage: Passage) -> Tracked:
    """Patches laid over one another, ``(1, channels × kernel, places)``."""
    kept, source = passage.kept, passage.source.along(1)
    size = prod([kept.args[2]] * 2 if isinstance(kept.args[2], int) else kept.args[2])
    count, flows = source.count // size, []
    for flow in map(fl.spread, source.flows):
        assert flow.columns is not None
        pairs, row = (flow.channels * count + flow.columns // size).unique(return_inverse=True)
        patches = flow.value.new_zeros(len(pairs), size, *flow.positions)
        patches[row, flow.columns % size] = flow.value
        # As of a mean over positions, the places in a patch are no weights.
        scale = flow.scale.new_zeros(len(pairs)).scatter_reduce_(0, row, flow.scale, "amax")
        value = torch.ops.aten.col2im(patches.flatten(2), *kept.args[1:], **kept.kwargs)
        flows.append(
            replace(flow, channels=pairs // count, columns=pairs % count, scale=scale, value=value)
        )
    return passage.after(1, flows)


def _multiplied(passage: Passage) -> Tracked:
    """A product with a gate, a scale per channel, or a number."""
    source, factor, (shape,) = passage.source, passage.kept.frozen, passage.kept.shapes
    assert factor is not None
    if factor.numel() == 1:
        flows = [fl.scaled_alike(flow, float(factor)) for flow in source.flows]
        return Tracked(
            flows, source.count, source.positions, source.shape, source.axis, source.index
        )
    if shape != source.shape:  # it is spread over the map of its gate
        source = source.shown(source.numbered().expand(shape))
    source = source.along(source.natural_axis())
    rows = _broadcast(factor, shape).movedim(source.axis, 0)
    if passage.step.kind is Kind.SCALE and len(rows) == rows.numel():
        return passage.after(source.axis, [fl.scaled(f, rows.flatten()) for f in source.flows])
    return passage.after(source.axis, [fl.gated(flow, rows) for flow in source.flows])


def _sum(passage: Passage) -> Tracked:
    n, kept, (shape,) = passage.n, passage.kept, passage.kept.shapes
    sources = [passage.tensor(each) for each in passage.step.sources]
    axis = _common_axis(sources)
    axis = 1 if axis is None else axis
    axis += len(shape) - len(sources[0].shape)
    # The second argument counts with a sign and a factor.
    second = kept.kwargs.get("alpha", 1) * (-1 if operation(n) == "sub" else 1)
    flows: list[Flow] = []
    for a, factor in zip(kept.args[:2], (1, second), strict=False):
        if isinstance(a, fx.Node):
            source = passage.tensor(a)
            if source.shape != shape:
                source = source.shown(source.numbered().expand(shape))
            own = source.along(axis).flows
        else:
            value = a if isinstance(a, Tensor) else torch.tensor(a)
            own = _constant(passage, _broadcast(value.to(passage.like), shape), shape, axis)
        flows += own if factor == 1 else [fl.scaled_alike(flow, factor) for flow in own]
    return tracked(flows, shape, axis)


def _join(passage: Passage) -> Tracked:
    """A concatenation, of channels or of positions."""
    kept, (shape,) = passage.kept, passage.kept.shapes
    dim = (kept.args[1] if len(kept.args) > 1 else kept.kwargs.get("dim", 0)) % len(shape)
    axis = _common_axis([passage.tensor(each) for each in passage.step.sources])
    axis = dim if axis is None else axis
    count, positions = shape[axis], torch.Size(s for d, s in enumerate(shape) if d != axis)
    flows: list[Flow] = []
    offset = 0
    for a in kept.args[0]:
        if isinstance(a, fx.Node):
            part = passage.tensor(a).along(axis)
        else:
            part = tracked(_constant(passage, a, a.shape, axis), a.shape, axis)
        for flow in part.flows:
            if dim == axis:
                flows.append(fl.shifted(flow, offset, count))
            else:
                place = dim if dim > axis else dim + 1
                flows.append(fl.placed(flow, place, offset, positions))
        offset += part.shape[dim]
    return tracked(flows, shape, axis)


def _batch_norm(passage: Passage) -> Tracked:
    source = passage.source.along(1)
    scale = norm_scale(passage.n, passage.kept)
    _, _, bias, mean, *_ = passage.kept.args
    constant = -mean * scale if bias is None else bias - mean * scale
    return passage.after(1, [fl.scaled(flow, scale) for flow in source.flows], constant)


def _norm(passage: Passage) -> Tracked:
    if operation(passage.n) in ("layer_norm", "rms_norm"):
        return _norm_of_positions(passage)
    source = passage.source.along(1)
    frozen, count = passage.kept.frozen, source.count
    assert frozen is not None
    place = 3 if operation(passage.n) == "group_norm" else 2
    bias = (*passage.kept.args[place:], None)[0]
    scale = norm_scale(passage.n, passage.kept)
    group = count // len(frozen)
    flows = [fl.scaled(flow, scale) for flow in source.flows]
    for flow in source.flows:
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
    return passage.after(1, flows, bias)


def _norm_of_positions(passage: Passage) -> Tracked:
    """A layer norm, or one by the root mean square, which subtracts no mean."""
    axis = len(passage.source.shape) - 1
    source = passage.source.along(axis)
    frozen = passage.kept.frozen
    assert frozen is not None
    weight, bias = (*passage.kept.args[2:4], None, None)[:2]
    flows = [fl.weighted(flow, frozen) for flow in source.flows]
    if operation(passage.n) == "layer_norm":
        flows = [fl.centred(flow, source.count) for flow in flows]
    if weight is not None:
        flows = [fl.scaled(flow, weight) for flow in flows]
    return passage.after(axis, flows, bias)


def _projection(passage: Passage) -> Tracked:
    axis = len(passage.source.shape) - 1
    source = passage.source.along(axis)
    weight, bias = weight_and_bias(passage.n, passage.kept)
    return passage.after(axis, [fl.projected(flow, weight) for flow in source.flows], bias)


def _gate(passage: Passage) -> Tracked:
    kept, source = passage.kept, passage.source.along(passage.source.natural_axis())
    assert kept.frozen is not None
    gate = kept.frozen.movedim(source.axis, 0)
    flows = [fl.gated(flow, gate) for flow in source.flows]
    if kept.added is not None:
        flows += _constant(passage, kept.added, source.shape, source.axis)
    return passage.after(source.axis, flows)


def _max_pool(passage: Passage) -> Followed:
    source = passage.source.along(1)
    assert passage.kept.frozen is not None
    picks = passage.kept.frozen.movedim(1, 0)
    pooled = passage.after(1, [fl.picked(flow, picks) for flow in source.flows])
    return pooled if len(passage.kept.shapes) == 1 else [pooled]


def _max(passage: Passage) -> Followed:
    source = passage.source.along(passage.source.natural_axis())
    assert passage.kept.frozen is not None
    picked = passage.kept.frozen.movedim(source.axis, 0)
    flows = [fl.gated(flow, picked) for flow in source.flows]
    highest = _reduced(passage, tracked(flows, source.shape, source.axis), torch.sum)
    return highest if len(passage.kept.shapes) == 1 else [highest]


def _depthwise(passage: Passage) -> Tracked:
    source = passage.source.along(1)
    _, weight, bias, *options = (*passage.kept.args, None)[: max(3, len(passage.kept.args))]

    def convolve(value: Tensor, kernels: Tensor) -> Tensor:
        convolved: Tensor = torch.ops.aten.conv2d(
            value, kernels, None, *options[:3], groups=len(kernels)
        )
        return convolved

    return passage.after(1, [fl.depthwise(flow, weight, convolve) for flow in source.flows], bias)


def _average(passage: Passage) -> Tracked:
    n, kept, source = passage.n, passage.kept, passage.source
    if operation(n) in REDUCING:
        return _reduced(passage, source, torch.mean if operation(n) == "mean" else torch.sum)
    flows = [
        fl.mapped(flow, lambda value: n.target(value, *kept.args[1:], **kept.kwargs))  # type: ignore[operator]
        for flow in source.along(1).flows
    ]
    return passage.after(1, flows)


def _reduced(passage: Passage, source: Tracked, reduce: Callable[..., Tensor]) -> Tracked:
    """A mean or a sum over some dimensions; those of the channels may be among them."""
    ndim, shape = len(source.shape), source.shape
    dims, axes = reduced_dims(passage.n, ndim), source.axes()
    keep = len(passage.kept.shapes[0]) == ndim
    left = [d for d in range(ndim) if d not in dims]
    if not left:
        raise not_understood(passage.n)
    axis = max(left, key=lambda d: (d in axes, shape[d]))
    source = source.along(axis)
    # In a flow's value the rows come first, then the positions.
    places = [d + 1 if d < axis else d for d in dims]
    flows = [fl.mapped(flow, lambda value: reduce(value, places, keep)) for flow in source.flows]
    if reduce is torch.mean:
        # Over channels it is a fixed weight of each, over positions it is none.
        share = 1 / prod(shape[d] for d in dims if d in axes)
        flows = [replace(flow, scale=flow.scale * share) for flow in flows]
    return passage.after(axis if keep else axis - sum(d < axis for d in dims), flows)


def _spatial(passage: Passage) -> Tracked:
    """A linear layer over positions: as a kernel of a depthwise convolution, but one for all."""
    source = passage.source.along(passage.source.natural_axis())
    weight, bias = weight_and_bias(passage.n, passage.kept)
    norm = weight.abs().sum(1).mean()
    flows = [
        replace(flow, value=F.linear(flow.value, weight), scale=flow.scale * norm)
        for flow in source.flows
    ]
    (shape,) = passage.kept.shapes
    if bias is not None:
        flows += _constant(passage, bias, shape, source.axis)
    return passage.after(source.axis, flows)


def _constant(passage: Passage, tensor: Tensor, shape: torch.Size, axis: int) -> list[Flow]:
    if not passage.constants:
        return []
    rows = tensor.expand(shape).movedim(axis, 0)
    return constant_flow(rows, rows.shape[1:])


def _common_axis(sources: list[Tracked]) -> int | None:
    """The dimension of the channels of the first tensor that has several."""
    return next((source.natural_axis() for source in sources if source.count > 1), None)


def _broadcast(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor with as many dimensions as ``shape``, as broadcasting sees it."""
    return tensor.view(*[1] * (len(shape) - tensor.ndim), *tensor.shape)


_PASSING: dict[Kind, Callable[[Passage], Followed]] = {
    Kind.SAME: _same,
    Kind.REINDEX: _reindex,
    Kind.PRODUCT: _multiplied,
    Kind.SCALE: _multiplied,
    Kind.SUM: _sum,
    Kind.JOIN: _join,
    Kind.BATCH_NORM: _batch_norm,
    Kind.NORM: _norm,
    Kind.PROJECTION: _projection,
    Kind.GATE: _gate,
    Kind.MAX_POOL: _max_pool,
    Kind.DEPTHWISE: _depthwise,
    Kind.AVERAGE: _average,
    Kind.FOLD: _fold,
    Kind.MAX: _max,
    Kind.SPATIAL: _spatial,
}
