"""What a layer's channels receive from each source that they read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from expcam.circuits.flows import Flow
from expcam.circuits.program import operation
from expcam.circuits.recording import Kept, Layer
from expcam.circuits.tracking import Tracked
from expcam.circuits.wiring import not_understood


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
class Contribution:
    """From channels of one layer to channels of another, each ``(targets, sources)``.

    Attributes:
        source: Name of the layer that gives.
        target: Name of the layer that receives.
        sources: Indices of its channels, ``(sources,)``.
        targets: The same of the target.
        weight: ``‖W‖₁``, every fixed scale on the way folded in.
        signed: What the source adds to the mean of the target's preactivation, times the
            target's own scale.
        attribution: What it adds to the preactivation, times the gradient of the logit there,
            summed over positions; None where no gradient was given.
        pull: Summed absolute gradient of the logit by each target's preactivation,
            ``(targets,)``; None where no gradient was given.
        columns: Which input channels of the target show which sources, pairs of a source's and
            an input channel's index ``(pairs, 2)``; None where sources share input channels, as
            behind a layer norm or in a transformer's stream.
    """

    source: str
    target: str
    sources: Tensor
    targets: Tensor
    weight: Tensor
    signed: Tensor
    attribution: Tensor | None
    pull: Tensor | None
    columns: Tensor | None


def read_convolution(
    n: fx.Node, kept: Kept, layer: Layer, target: Active, source: Tracked
) -> Iterator[Contribution]:
    """What a convolution reads."""
    weight = kept.args[1]
    stride, padding, dilation, groups = convolution_options(kept.args[3:], kept.kwargs)
    kernel = weight.shape[2:]
    # Kernels over all input channels, zero outside a target's group.
    full = weight.new_zeros(len(target.channels), source.count, kernel.numel())
    first = target.channels // (len(weight) // groups) * weight.shape[1]
    columns = first[:, None] + torch.arange(weight.shape[1], device=weight.device)
    full.scatter_(
        1, columns[:, :, None].expand(-1, -1, kernel.numel()), weight[target.channels].flatten(2)
    )
    gradient = None if target.gradient is None else target.gradient.flatten(1)
    for flow in source.flows:
        seen = unfolded(flow.value, kernel, stride, padding, dilation)
        if flow.columns is not None:
            own = full[:, flow.columns]
        else:
            own = torch.einsum("jck,nc->jnk", full, flow.mixed(source.count))
        attribution = None
        if gradient is not None:
            attribution = (own * torch.einsum("jl,nkl->jnk", gradient, seen)).sum(2)
        yield _gathered(
            layer, target, flow, own.abs().sum(2), (own * seen.mean(2)).sum(2), attribution
        )


def read_linear(
    n: fx.Node, kept: Kept, layer: Layer, target: Active, source: Tracked
) -> Iterator[Contribution]:
    """What a linear layer reads."""
    weight = weight_and_bias(n, kept)[0][target.channels]
    gradient = None if target.gradient is None else target.gradient.flatten(1)
    for flow in source.flows:
        value = flow.value.flatten(1)
        if flow.columns is not None:
            own = weight[:, flow.columns]
        else:
            own = weight @ flow.mixed(source.count).T
        attribution = None if gradient is None else own * (gradient @ value.T)
        yield _gathered(layer, target, flow, own.abs(), own * value.mean(1), attribution)


def read_attention(
    n: fx.Node, kept: Kept, layer: Layer, target: Active, source: Tracked
) -> Iterator[Contribution]:
    """What attention heads read by their values, their attention held fixed."""
    features = features_of(source, layer.axis)
    if features is None:
        raise not_understood(n)
    order = [layer.axis, features]
    index = source.numbered().movedim(order, [0, 1]).flatten(2)  # heads, features, keys
    size = max(1, source.positions.numel())
    heads = target.channels.cpu()
    channels, places = index[heads] // size, index[heads, 0] % size
    if not (index[heads] % size == places[:, None]).all() or (index[heads] < 0).any():
        raise not_understood(n)
    if not (channels == channels[:, :, :1]).all():
        raise not_understood(n)
    device = source.flows[0].value.device if source.flows else "cpu"
    channels, places = channels[:, :, 0].to(device), places.to(device)

    def seen(cotangent: Tensor) -> Tensor:
        """Factors of the values, for each head, feature and position."""
        pulled = _pulled(n, kept, source.shape, cotangent)
        pulled = pulled.movedim(order, [0, 1]).flatten(2)[target.channels]
        spread = pulled.new_zeros(*pulled.shape[:2], size)
        return spread.scatter_add_(2, places[:, None].expand_as(pulled), pulled)

    like = target.rows.new_zeros(layer.shape)
    mean = seen(torch.ones_like(like)) * len(index) / like.numel()
    gradient = None
    if target.gradient is not None:
        whole = torch.zeros_like(like).movedim(layer.axis, 0).contiguous()
        whole[target.channels] = target.gradient
        gradient = seen(whole.movedim(0, layer.axis))
    for flow in source.flows:
        rows = flow.value.flatten(1)
        mix = flow.mixed(source.count)[:, channels]  # rows, heads, features
        weight = mix.abs().sum(2).T
        # Attention treats the features of a head alike.
        signed = mix.sum(2).T * (mean[:, 0] @ rows.T)
        attribution = None
        if gradient is not None:
            attribution = (mix * torch.einsum("np,hdp->nhd", rows, gradient)).sum(2).T
        yield _gathered(layer, target, flow, weight, signed, attribution)


def _gathered(
    layer: Layer, target: Active, flow: Flow, weight: Tensor, signed: Tensor,
    attribution: Tensor | None,
) -> Contribution:  # fmt: skip
    """Sum up the rows ``(targets, rows)`` of each source channel."""
    sources, place = flow.channels.unique(return_inverse=True)
    scale = layer.scale[target.channels][:, None]

    def summed(rows: Tensor) -> Tensor:
        return rows.new_zeros(len(rows), len(sources)).index_add_(1, place, rows)

    return Contribution(
        source=flow.source,
        target=layer.name,
        sources=sources,
        targets=target.channels,
        weight=summed(weight * flow.scale) * scale.abs(),
        signed=summed(signed) * scale,
        attribution=None if attribution is None else summed(attribution),
        pull=None if target.gradient is None else target.gradient.flatten(1).abs().sum(1),
        columns=None if flow.columns is None else torch.stack([flow.channels, flow.columns], 1),
    )


def convolution_options(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Any, Any, int]:
    """Stride, padding, dilation and groups of a convolution, from its arguments behind the bias."""
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    options = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
    for name in ("stride", "dilation"):
        value = options[name]
        options[name] = [value] * 2 if isinstance(value, int) else [*value, *value][:2]
    return options["stride"], options["padding"], options["dilation"], options["groups"]


def unfolded(
    planes: Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """What each kernel position sees of planes ``(n, 1, H, W)``: ``(n, kernel, outputs)``."""
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        planes = F.pad(planes, [side for t in reversed(total) for side in (t // 2, t - t // 2)])
    around = (0, 0) if isinstance(padding, str) else padding
    return F.unfold(planes, tuple(kernel), dilation=dilation, padding=around, stride=stride)


def weight_and_bias(n: fx.Node, kept: Kept) -> tuple[Tensor, Tensor | None]:
    """Weight ``(out, in)`` and bias of a linear layer."""
    if operation(n) == "linear":
        bias = kept.args[2] if len(kept.args) > 2 else kept.kwargs.get("bias")
        return kept.args[1], bias
    return kept.args[1].T, None


def features_of(values: Tracked, heads: int) -> int | None:
    """Along which dimension of attention's values a head has its features; None if unclear."""
    channels = values.channels()
    varying = [
        d
        for d in range(channels.ndim)
        if d != heads and bool((channels != channels.narrow(d, 0, 1)).any())
    ]
    if not varying:
        return channels.ndim - 1
    return varying[0] if len(varying) == 1 and varying[0] > heads else None


def _pulled(n: fx.Node, kept: Kept, shape: torch.Size, cotangent: Tensor) -> Tensor:
    """Attention's values' factors: it is linear in them, so its gradient is what they are."""
    with torch.enable_grad():
        values = torch.zeros(shape, dtype=cotangent.dtype, device=cotangent.device)
        values.requires_grad_()

        def given(a: Any) -> Any:
            return values if isinstance(a, fx.Node) else a

        args = fx.node.map_aggregate(kept.args, given)
        result = n.target(*args, **kept.kwargs)  # type: ignore[operator]
        (pulled,) = torch.autograd.grad(result, values, cotangent)
    return pulled
