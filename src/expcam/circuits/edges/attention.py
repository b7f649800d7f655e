"""What attention's heads read by their values, and what they give, their attention held fixed."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from expcam.circuits.edges.flow import Flow
from expcam.circuits.edges.tracked import Tracked
from expcam.circuits.trace.freezing import Kept
from expcam.circuits.trace.recording import Active, Layer
from expcam.circuits.trace.wiring import not_understood


@dataclass(frozen=True, kw_only=True)
class Received:
    """What heads receive from each row of a flow, each ``(heads, rows)``.

    Attributes:
        weight: By how many of a head's values it is read, its factors on the way counted in.
        signed: What it adds to the mean of the head's output.
        attribution: The same times the gradient there, summed; None where none was given.
    """

    weight: Tensor
    signed: Tensor
    attribution: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of attention, each head's with the factors by which it weighs them.

    Attributes:
        shown: For each head, feature and position the channel that is there, ``(heads, features,
            positions)``.
        places: Where in the channel, likewise.
        mean: The factors of the mean of the head's output, likewise.
        gradient: The factors of its sum times the gradient there; None where none was given.
    """

    shown: Tensor
    places: Tensor
    mean: Tensor
    gradient: Tensor | None

    @property
    def alike(self) -> bool:
        """Whether a feature is one channel, and a head treats all its features alike."""
        return bool(
            (self.shown == self.shown[:, :, :1]).all()
            and (self.places == self.places[:, :1]).all()
            and torch.allclose(self.mean, self.mean[:, :1])
        )


def values_of(
    n: fx.Node, kept: Kept, layer: Layer, features: int, target: Active, source: Tracked
) -> Values:
    """The values that some heads read.

    Raises:
        WiringError: They read those of other heads as well.
    """
    order = [layer.axis, features]
    size = max(1, source.positions.numel())
    device = target.rows.device
    # Several heads may read the same values: then each gets values of its own.
    index = source.numbered()
    index = index[(None,) * (len(layer.shape) - index.ndim)]
    shape = [*index.shape]
    shape[layer.axis] = layer.channels
    index = index.expand(shape)

    def of_heads(tensor: Tensor) -> Tensor:
        return tensor.movedim(order, [0, 1]).flatten(2)[target.channels.to(tensor.device)]

    def factors(cotangent: Tensor) -> Tensor:
        return of_heads(_pulled(n, kept, index.shape, cotangent)) * known

    _check_apart(n, kept, layer, index.shape, target)
    shown = of_heads(index).to(device)
    known = shown >= 0
    like = target.rows.new_zeros(layer.shape)
    gradient = None
    if target.gradient is not None:
        whole = torch.zeros_like(like).movedim(layer.axis, 0)
        whole[target.channels] = target.gradient
        gradient = factors(whole.movedim(0, layer.axis))
    return Values(
        shown=torch.where(known, shown // size, 0),
        places=torch.where(known, shown % size, 0),
        mean=factors(torch.full_like(like, layer.channels / like.numel())),
        gradient=gradient,
    )


def _check_apart(n: fx.Node, kept: Kept, layer: Layer, shape: torch.Size, target: Active) -> None:
    """Raise `WiringError` unless a head reads no values but its own."""
    head = target.channels[:1]
    one = target.rows.new_zeros(layer.shape).index_fill_(layer.axis, head, 1)
    others = _pulled(n, kept, shape, one).index_fill_(layer.axis, head, 0)
    if others.any():
        raise not_understood(n)


def received(flow: Flow, values: Values, count: int, *, alike: bool) -> Received:
    """What heads receive from a flow of a tensor of ``count`` channels."""
    rows, mix = flow.value.flatten(1), flow.mixed(count)
    if not alike:
        return _one_by_one(rows, mix, values)
    size = rows.shape[1]
    own = mix[:, values.shown[:, :, 0]]  # rows, heads, features
    attribution = None
    if values.gradient is not None:
        factors = _placed(values.gradient, values.places, size)
        attribution = (own * torch.einsum("np,hdp->nhd", rows, factors)).sum(2).T
    mean = _placed(values.mean[:, :1], values.places[:, :1], size)[:, 0]
    return Received(
        weight=own.abs().sum(2).T, signed=own.sum(2).T * (mean @ rows.T), attribution=attribution
    )


def _one_by_one(rows: Tensor, mix: Tensor, values: Values) -> Received:
    """The same head by head, wherever its values come from."""
    factors = [values.mean] if values.gradient is None else [values.mean, values.gradient]
    weight, sums = [], []
    for n, (shown, places) in enumerate(zip(values.shown, values.places, strict=True)):
        channels, column = shown.unique(return_inverse=True)
        own, index = mix[:, channels], (column * rows.shape[1] + places).flatten()

        def summed(
            factors: Tensor, own: Tensor = own, index: Tensor = index, count: int = len(channels)
        ) -> Tensor:
            spread = rows.new_zeros(count * rows.shape[1]).index_add_(0, index, factors.flatten())
            return (own * (rows @ spread.view(count, -1).T)).sum(1)

        weight.append(own.abs().sum(1))
        sums.append([summed(each[n]) for each in factors])
    signed, *attribution = (torch.stack(each) for each in zip(*sums, strict=True))
    return Received(
        weight=torch.stack(weight),
        signed=signed,
        attribution=attribution[0] if attribution else None,
    )


def given(layer: Layer, features: int, active: Active | None) -> Tracked:
    """Attention's output: a head has a row for each of its features."""
    shape = layer.shape
    order = [layer.axis, features]
    order += [d for d in range(len(shape)) if d not in order]
    width, positions = shape[features], torch.Size(shape[d] for d in order[2:])
    numbers = torch.arange(shape.numel()).view([shape[d] for d in order])
    index = numbers.permute([order.index(d) for d in range(len(shape))])
    flows = []
    if active is not None and len(active.channels):
        channels = active.channels.repeat_interleave(width)
        within = torch.arange(width, device=channels.device).repeat(len(active.channels))
        # A row has no dimension of heads; behind it every dimension is one earlier.
        rows = active.rows.movedim(features + (features < layer.axis), 1)
        flows = [
            Flow(
                source=layer.name,
                channels=channels,
                value=rows.reshape(-1, *positions),
                scale=active.rows.new_ones(len(channels)),
                columns=channels * width + within,
            )
        ]
    return Tracked(flows, layer.channels * width, positions, shape, index=index)


def _placed(factors: Tensor, places: Tensor, size: int) -> Tensor:
    """Factors ``(heads, features, positions)`` where they belong in a channel of a size."""
    return factors.new_zeros(*factors.shape[:2], size).scatter_add_(2, places, factors)


def _pulled(n: fx.Node, kept: Kept, shape: torch.Size, cotangent: Tensor) -> Tensor:
    """The factors of attention's values: it is linear in them, so they are its gradient."""
    with torch.enable_grad():
        values = torch.zeros(shape, dtype=cotangent.dtype, device=cotangent.device)
        values.requires_grad_()
        args = fx.node.map_aggregate(kept.args, lambda a: values if isinstance(a, fx.Node) else a)
        result = n.target(*args, **kept.kwargs)  # type: ignore[operator]
        (pulled,) = torch.autograd.grad(result, values, cotangent)
    return pulled
