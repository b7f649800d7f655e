"""What each layer's channels receive from the channels that they read.

The walk through a classifier's operations is here (`follow`); how channels pass those that mix
none is in `operations`. What the image made of every operation is held fixed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from expcam.circuits.edges.attention import Values, given, received, values_of
from expcam.circuits.edges.flow import Flow, whole
from expcam.circuits.edges.operations import Followed, Passage, passed
from expcam.circuits.edges.tracked import Tracked, tracked
from expcam.circuits.trace.freezing import Kept, weight_and_bias
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.recording import INPUT, Active, Layer, Recording
from expcam.circuits.trace.wiring import Step


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
        sensitivity: Summed absolute gradient of the logit by each target's preactivation,
            ``(targets,)``; None where no gradient was given.
        columns: Which sources the target reads at which of its input channels: pairs of their
            indices, ``(pairs, 2)``; None where sources share input channels, as behind a layer
            norm or in a transformer's stream.
    """

    source: str
    target: str
    sources: Tensor
    targets: Tensor
    weight: Tensor
    signed: Tensor
    attribution: Tensor | None
    sensitivity: Tensor | None
    columns: Tensor | None


def follow(
    recording: Recording, active: Mapping[str, Active], *, constants: bool = False
) -> Iterator[Contribution]:
    """What active channels contribute to the active channels of the layers that read them.

    Args:
        recording: The run.
        active: The active channels by layer; those of ``INPUT`` are the image's colours. A layer
            without an entry is neither source nor target.
        constants: Whether biases, position embeddings and other constants on the way are
            followed too, as a source named ``CONSTANT``. With all channels of all layers active the
            contributions to a channel then add up to its preactivation less its own bias.

    Yields:
        For each layer, and each source of it, the contributions of its channels.

    Raises:
        WiringError: Channels are changed in a way that is not understood.
    """
    follower = _Follower(recording, active, constants)
    last = _last_uses(recording)
    for n, step in recording.wiring.steps.items():
        yield from follower.follow(n, step)
        for done in last.get(n, ()):
            follower.found.pop(done, None)


def _last_uses(recording: Recording) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for n, step in recording.wiring.steps.items():
        last.update(dict.fromkeys(step.sources, n))
    uses: dict[fx.Node, list[fx.Node]] = {}
    for source, n in last.items():
        uses.setdefault(n, []).append(source)
    return uses


class _Follower:
    """Walks through the operations; `found` holds the tensors that are still to be read."""

    def __init__(self, recording: Recording, active: Mapping[str, Active], constants: bool) -> None:
        self.recording = recording
        self.active = active
        self.constants = constants
        self.found: dict[fx.Node, Followed] = {}
        self.finished = {site.activation: name for name, site in recording.wiring.sites.items()}

    def follow(self, n: fx.Node, step: Step) -> Iterator[Contribution]:
        if step.kind is Kind.IMAGE:
            self.found[n] = self._own(INPUT, self.recording.image.shape, axis=1)
            return
        if step.kind in (Kind.LAYER, Kind.ATTENTION, Kind.LOGITS):
            assert step.owner is not None
            yield from self._read(self._passage(n, step), self.recording.layers[step.owner])
        elif step.owner is None:
            self.found[n] = passed(self._passage(n, step))
        if n in self.finished:
            layer = self.recording.layers[self.finished[n]]
            features = self.recording.wiring.sites[layer.name].features
            if features is not None:
                self.found[n] = given(layer, features, self.active.get(layer.name))
            else:
                self.found[n] = self._own(layer.name, layer.shape, layer.axis)

    def _passage(self, n: fx.Node, step: Step) -> Passage:
        return Passage(
            n=n,
            step=step,
            kept=self.recording.kept[n],
            before=self.found,
            like=self.recording.image,
            constants=self.constants,
        )

    def _own(self, name: str, shape: torch.Size, axis: int) -> Tracked:
        """A layer's own channels, of which the active ones are followed."""
        found = self.active.get(name)
        active = found is not None and len(found.channels)
        flows = [whole(name, found.rows, found.channels)] if found and active else []
        return tracked(flows, shape, axis)

    def _read(self, passage: Passage, layer: Layer) -> Iterator[Contribution]:
        target = self.active.get(layer.name)
        if target is None:
            return
        n, kept, source = passage.n, passage.kept, passage.source
        if passage.step.kind is Kind.ATTENTION:
            features = self.recording.wiring.sites[layer.name].features
            assert features is not None
            yield from _read_attention(
                layer, target, source, values_of(n, kept, layer, features, target, source)
            )
        elif passage.step.kind is Kind.LOGITS:
            whole = torch.eye(layer.channels).to(target.rows)
            yield from _read_linear(whole, layer, target, source.along(layer.axis))
        elif operation(n) == "conv2d":
            yield from _read_convolution(n, kept, layer, target, source.along(1))
        else:
            last = source.along(len(source.shape) - 1)
            yield from _read_linear(weight_and_bias(n, kept)[0], layer, target, last)


def _read_convolution(
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
        # Windows may lie side by side in the batch.
        planes = flow.value.flatten(0, 1)[:, None]
        seen = unfolded(planes, kernel, stride, padding, dilation)
        seen = seen.unflatten(0, flow.value.shape[:2]).transpose(1, 2).flatten(2)
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


def _read_linear(
    weight: Tensor, layer: Layer, target: Active, source: Tracked
) -> Iterator[Contribution]:
    """What a linear layer of weights ``(out, in)`` reads."""
    weight = weight[target.channels]
    gradient = None if target.gradient is None else target.gradient.flatten(1)
    for flow in source.flows:
        value = flow.value.flatten(1)
        if flow.columns is not None:
            own = weight[:, flow.columns]
        else:
            own = weight @ flow.mixed(source.count).T
        attribution = None if gradient is None else own * (gradient @ value.T)
        yield _gathered(layer, target, flow, own.abs(), own * value.mean(1), attribution)


def _read_attention(
    layer: Layer, target: Active, source: Tracked, values: Values
) -> Iterator[Contribution]:
    """What attention heads read by their values."""
    alike = values.alike
    for flow in source.flows:
        found = received(flow, values, source.count, alike=alike)
        yield _gathered(layer, target, flow, found.weight, found.signed, found.attribution)


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
        sensitivity=None if target.gradient is None else target.gradient.flatten(1).abs().sum(1),
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
