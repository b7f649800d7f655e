"""Which part of a tensor came from which channel of which layer.

A *flow* follows channels of one layer through everything that keeps them apart or mixes them by
fixed weights: norms, nonlinearities, pooling, sums, concatenations, changes of shape. All flows
of a tensor, of all channels of all layers, and its constants add up to the tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.errors import WiringError

CONSTANT = "constant"
"""The layer name of everything that does not depend on the image."""
MOST_NUMBERS = 2**28
"""No flow is spread over more numbers than this."""
MOST_MIXES = 8
"""So many paths of one layer may mix channels in ways of their own; more are spread and joined."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What channels of one layer add to a tensor.

    A channel can reach the tensor on several paths, for instance past a layer and through it;
    each path is a row. A row adds its ``value`` to one channel of the tensor. Behind something
    that mixes channels it adds its value times a factor to each of them.

    Attributes:
        source: Name of the layer that the channels come from.
        channels: The channel of that layer that each row follows, ``(rows,)``.
        value: ``(rows, *positions)``. The positions are all dimensions of the tensor except
            that of its channels; the batch is one of them.
        scale: Absolute product of the fixed scales on the way, ``(rows,)``.
        columns: The channel of the tensor that each row adds to, ``(rows,)``; None where
            ``mix`` is given.
        mix: The factors by which each row adds to every channel of the tensor,
            ``(rows, channels)``; None where ``columns`` is given.
    """

    source: str
    channels: Tensor
    value: Tensor
    scale: Tensor
    columns: Tensor | None = None
    mix: Tensor | None = None

    @property
    def positions(self) -> torch.Size:
        """The shape of what one channel holds."""
        return self.value.shape[1:]

    def mixed(self, count: int) -> Tensor:
        """``mix``, also where it is not given and each row is in one of ``count`` channels."""
        if self.mix is not None:
            return self.mix
        assert self.columns is not None
        return F.one_hot(self.columns, count).to(self.value)


def whole(source: str, rows: Tensor, channels: Tensor) -> Flow:
    """The flow of a layer's own output.

    Args:
        source: The layer.
        rows: The channels that are followed, ``(rows, *positions)``.
        channels: Their indices, ``(rows,)``.
    """
    return Flow(
        source=source,
        channels=channels,
        value=rows,
        scale=rows.new_ones(len(rows)),
        columns=channels,
    )


def constant_flow(rows: Tensor, positions: Any) -> list[Flow]:
    """What does not depend on the image, ``(channels, *positions)``, as a flow."""
    rows = rows.expand(-1, *positions)
    return [whole(CONSTANT, rows, torch.arange(len(rows), device=rows.device))]


def scaled(flow: Flow, factor: Tensor) -> Flow:
    """Multiply by one signed factor per channel of the tensor, ``(channels,)``."""
    if flow.columns is None:
        assert flow.mix is not None
        return replace(flow, mix=flow.mix * factor)
    own = factor[flow.columns]
    return replace(flow, scale=flow.scale * own.abs(), value=flow.value * _per_row(own, flow.value))


def scaled_alike(flow: Flow, factor: float) -> Flow:
    """Multiply by one signed number."""
    return replace(flow, scale=flow.scale * abs(factor), value=flow.value * factor)


def weighted(flow: Flow, factor: Tensor) -> Flow:
    """Multiply by one positive factor per position, as a layer norm does."""
    return replace(flow, value=flow.value * factor, scale=flow.scale * factor.mean().to(flow.scale))


def gated(flow: Flow, gate: Tensor) -> Flow:
    """Multiply by a factor at each channel and position, which this image has made.

    Args:
        flow: What passes.
        gate: ``(1 or channels, *positions)``; a dimension of positions may be 1, for all alike.
    """
    if len(gate) == 1:
        return replace(flow, value=flow.value * gate)
    if flow.columns is None:
        assert flow.mix is not None
        if gate[0].numel() == 1:
            return replace(flow, mix=flow.mix * gate.flatten())
        flow = spread(flow)
    return replace(flow, value=flow.value * gate[flow.columns])


def centred(flow: Flow, count: int) -> Flow:
    """Subtract the mean over the tensor's ``count`` channels."""
    mix = flow.mixed(count)
    return replace(flow, columns=None, mix=mix - mix.mean(1, keepdim=True))


def projected(flow: Flow, weight: Tensor) -> Flow:
    """Mix channels by fixed weights ``(out, channels)``."""
    mix = weight.T[flow.columns] if flow.columns is not None else flow.mixed(0) @ weight.T
    return replace(flow, columns=None, mix=mix)


def spread(flow: Flow) -> Flow:
    """Make a row for each source channel and each channel of the tensor, so that each is in one.

    Raises:
        WiringError: That would be too many.
    """
    if flow.mix is None:
        return flow
    sources, rows = flow.channels.unique(return_inverse=True)
    count = flow.mix.shape[1]
    if len(sources) * count * prod(flow.positions) > MOST_NUMBERS:
        raise too_far(flow)
    value = flow.value.new_empty(len(sources), count, *flow.positions)
    scale = flow.scale.new_empty(len(sources), count)
    for n in range(len(sources)):
        own = rows == n
        value[n] = torch.tensordot(flow.mix[own], flow.value[own], ([0], [0]))
        scale[n] = flow.scale[own] @ flow.mix[own].abs()
    return Flow(
        source=flow.source,
        channels=sources.repeat_interleave(count),
        value=value.flatten(0, 1),
        scale=scale.flatten(),
        columns=torch.arange(count, device=rows.device).repeat(len(sources)),
    )


def merged(flows: Sequence[Flow], count: int) -> list[Flow]:
    """Flows of a tensor of ``count`` channels, with the paths joined that nothing tells apart.

    What follows does the same to all rows of a source channel that add to one channel of the
    tensor. So one row holds the sum of their values and of their scales, and there are never
    more rows than pairs of channels, beside a few flows that mix, however many paths there are.
    """
    by_source: dict[str, list[Flow]] = {}
    for flow in flows:
        by_source.setdefault(flow.source, []).append(flow)
    return [each for own in by_source.values() for each in _merged(own, count)]


def _merged(flows: list[Flow], count: int) -> list[Flow]:
    """The same for flows of one source."""
    mixing = [flow for flow in flows if flow.columns is None]
    if len(mixing) > MOST_MIXES:
        flows, mixing = [spread(flow) for flow in flows], []
    apart = [flow for flow in flows if flow.columns is not None]
    if len(apart) < 2:
        return [*apart, *mixing]
    pairs = [f.channels * count + f.columns for f in apart if f.columns is not None]
    kinds, row = torch.cat(pairs).unique(return_inverse=True)
    value = apart[0].value.new_zeros(len(kinds), *apart[0].positions)
    scale = apart[0].scale.new_zeros(len(kinds))
    for flow, own in zip(apart, row.split([len(each) for each in pairs]), strict=True):
        value.index_add_(0, own, flow.value)
        scale.index_add_(0, own, flow.scale)
    channels, columns = kinds // count, kinds % count
    return [
        replace(apart[0], channels=channels, columns=columns, value=value, scale=scale),
        *mixing,
    ]


def mapped(flow: Flow, linear: Callable[[Tensor], Tensor]) -> Flow:
    """Send each row through an operation that is linear and the same for every channel."""
    return replace(flow, value=linear(flow.value))


def picked(flow: Flow, index: Tensor) -> Flow:
    """Take the pixels that a max pooling of the whole tensor picks.

    Args:
        flow: Its value is ``(rows, 1, H, W)``.
        index: Where in the plane, ``(channels, 1, H', W')``.
    """
    flow = spread(flow)
    own = index[flow.columns]
    value = flow.value.flatten(2).gather(2, own.flatten(2)).view(own.shape)
    return replace(flow, value=value)


def depthwise(flow: Flow, weight: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]) -> Flow:
    """Pass through a depthwise convolution: a scale per channel, its kernel's L1 norm.

    Args:
        flow: Its value is ``(rows, 1, H, W)``.
        weight: Kernels ``(channels, 1, …)``.
        convolve: Applies kernels to as many channels ``(1, channels, H, W)``, without bias.
    """
    flow = spread(flow)
    own = weight[flow.columns]
    return replace(
        flow,
        scale=flow.scale * own.abs().flatten(1).sum(1),
        value=convolve(flow.value.transpose(0, 1), own).transpose(0, 1),
    )


def shifted(flow: Flow, offset: int, count: int) -> Flow:
    """Let the tensor's channels begin at ``offset`` of ``count``."""
    if flow.columns is not None:
        return replace(flow, columns=flow.columns + offset)
    assert flow.mix is not None
    return replace(flow, mix=F.pad(flow.mix, (offset, count - offset - flow.mix.shape[1])))


def placed(flow: Flow, dim: int, offset: int, positions: torch.Size) -> Flow:
    """Let the value be a part of larger positions, from ``offset`` along its dimension ``dim``."""
    value = flow.value.new_zeros(len(flow.value), *positions)
    value.narrow(dim, offset, flow.value.shape[dim]).copy_(flow.value)
    return replace(flow, value=value)


def rearranged(flow: Flow, channels: Tensor, places: Tensor, positions: Sequence[int]) -> Flow:
    """Follow a change of shape.

    Args:
        flow: Its value may have any positions; they are counted as one.
        channels: For each channel of the new tensor the old one that it shows, ``(out,)``; -1
            where it shows none.
        places: Which of the old positions it shows at each new one, ``(out, new positions)``,
            or ``(1, new positions)`` where all channels show the same; -1 where it shows none.
        positions: Shape of the new positions.
    """
    old = flow.value.flatten(1)
    if len(places) == 1:
        (own,) = places
        if not torch.equal(own, torch.arange(old.shape[1], device=own.device)):
            old = old.index_select(1, own.clamp(min=0)) * (own >= 0)
    else:
        old = F.pad(old, (0, 1))  # the last is what -1 shows
    if flow.columns is not None:
        row, out = (flow.columns[:, None] == channels).nonzero(as_tuple=True)
        value = old
        if not torch.equal(row, torch.arange(len(old), device=row.device)):
            value = value[row]
        if len(places) > 1:
            value = value.gather(1, _last(places[out], old))
        return replace(
            flow,
            channels=flow.channels[row],
            scale=flow.scale[row],
            columns=out,
            value=value.reshape(-1, *positions),
        )
    assert flow.mix is not None
    kinds, which = places.unique(dim=0, return_inverse=True)
    mix = F.pad(flow.mix, (0, 1))[:, _last(channels, F.pad(flow.mix, (0, 1)))]
    value = old if len(places) == 1 else torch.cat([old[:, _last(kind, old)] for kind in kinds])
    if len(kinds) > 1:
        mix = torch.cat([mix * (which == n) for n in range(len(kinds))])
    return replace(
        flow,
        channels=flow.channels.repeat(len(kinds)),
        scale=flow.scale.repeat(len(kinds)),
        mix=mix,
        value=value.view(-1, *positions),
    )


def regrouped(flow: Flow, index: Tensor, size: int) -> Flow:
    """Follow a change of shape behind which several channels are one slice.

    Args:
        flow: Its value may have any positions; they are counted as one.
        index: For each slice and position of the new tensor the element of the old one that it
            shows, counted channel by channel, ``(out, *new positions)``; -1 where it shows none.
        size: The number of the old positions.
    """
    flow = spread(flow)
    assert flow.columns is not None
    slices = index.flatten(1)
    channels, places = torch.where(slices < 0, -1, slices // size), slices % size
    shows = torch.stack([(channels == column).any(1) for column in flow.columns.unique()])
    row, out = shows[flow.columns.unique(return_inverse=True)[1]].nonzero(as_tuple=True)
    if len(row) * slices.shape[1] > MOST_NUMBERS:
        raise too_far(flow)
    own = channels[out] == flow.columns[row, None]
    value = flow.value.flatten(1)[row].gather(1, places[out]) * own
    return replace(
        flow,
        channels=flow.channels[row],
        scale=flow.scale[row],
        columns=out,
        value=value.view(-1, *index.shape[1:]),
    )


def too_far(flow: Flow) -> WiringError:
    """The error that says that there is too much to follow."""
    return WiringError(
        f"the channels of `{flow.source}` spread too far for the readout to follow them"
    )


def _last(places: Tensor, padded: Tensor) -> Tensor:
    return torch.where(places < 0, padded.shape[1] - 1, places)


def _per_row(factor: Tensor, value: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (value.ndim - 1))
