"""Which part of a tensor came from which layer.

A *flow* follows the channels of one layer's output through everything that does not mix
channels: batch norm, nonlinearities, pooling, sums, concatenations, depthwise convolutions. All
flows of a tensor together, plus constants, add up to the tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

INPUT = "input"
"""The layer name of the colour channels of the image."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The channels of one source layer inside a tensor.

    Attributes:
        source: Name of the layer that the channels come from.
        channels: Their indices there, ``(n,)``.
        start: Channel of the tensor at which they begin; they lie side by side.
        scale: Product of the per-channel scales on the way, as absolute values, ``(n,)``.
        value: What they contribute to the tensor, ``(1, n, …)``; behind a flattening, the
            pixels of each channel are the last dimension.
    """

    source: str
    channels: Tensor
    start: int
    scale: Tensor
    value: Tensor

    @property
    def span(self) -> slice:
        """The tensor's channels that the flow lies in."""
        return slice(self.start, self.start + len(self.channels))


def whole(source: str, value: Tensor) -> list[Flow]:
    """The single flow of a layer's own output ``(1, channels, …)``."""
    count = value.shape[1]
    return [
        Flow(
            source=source,
            channels=torch.arange(count),
            start=0,
            scale=torch.ones(count, dtype=value.dtype),
            value=value,
        )
    ]


def mapped(flows: Sequence[Flow], linear: Callable[[Tensor], Tensor]) -> list[Flow]:
    """Send each flow through an operation that is linear and keeps channels apart."""
    return [replace(flow, value=linear(flow.value)) for flow in flows]


def scaled(flows: Sequence[Flow], scale: Tensor) -> list[Flow]:
    """Multiply by one signed factor per channel of the tensor, ``(channels,)``."""
    result = []
    for flow in flows:
        own = scale[flow.span]
        shape = (1, -1, *[1] * (flow.value.ndim - 2))
        result.append(
            replace(flow, scale=flow.scale * own.abs().cpu(), value=flow.value * own.view(shape))
        )
    return result


def gated(flows: Sequence[Flow], before: Tensor, after: Tensor) -> list[Flow]:
    """Pass through an elementwise nonlinearity: each flow keeps its share of the tensor.

    For a ReLU the gate is 0 or 1, so the flows of its input that add up to it add up to its
    output again. Constants that were added before have their share too.
    """
    gate = torch.where(before == 0, torch.zeros_like(after), after / before)
    return [replace(flow, value=flow.value * gate[:, flow.span]) for flow in flows]


def max_pooled(flows: Sequence[Flow], before: Tensor, **pooling: Any) -> list[Flow]:
    """Take from each flow the pixels that a max pooling of the whole tensor picks."""
    _, index = F.max_pool2d(before, return_indices=True, **pooling)
    return [
        replace(
            flow,
            value=flow.value.flatten(2)
            .gather(2, index[:, flow.span].flatten(2))
            .view(index[:, flow.span].shape),
        )
        for flow in flows
    ]


def depthwise(
    flows: Sequence[Flow], weight: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]
) -> list[Flow]:
    """Pass through a depthwise convolution: a scale per channel, its kernel's L1 norm.

    Args:
        flows: Flows of its input.
        weight: Kernels ``(channels, 1, …)``.
        convolve: Applies kernels to as many channels, without bias.
    """
    return [
        replace(
            flow,
            scale=flow.scale * weight[flow.span].abs().flatten(1).sum(1).cpu(),
            value=convolve(flow.value, weight[flow.span]),
        )
        for flow in flows
    ]


def concatenated(parts: Sequence[tuple[Sequence[Flow], int]]) -> list[Flow]:
    """Join tensors along channels; each part is its flows and its number of channels."""
    result, offset = [], 0
    for flows, channels in parts:
        result += [replace(flow, start=flow.start + offset) for flow in flows]
        offset += channels
    return result


def flattened(flows: Sequence[Flow]) -> list[Flow]:
    """Flatten space, keeping the pixels of a channel together as its columns, if several."""
    return mapped(flows, lambda value: value.flatten(2 if value[0, 0].numel() > 1 else 1))
