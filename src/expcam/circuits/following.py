"""Follow channels from layer to layer, with what the image made of every operation held fixed."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits import flows as fl
from expcam.circuits.flows import INPUT, Flow
from expcam.circuits.passing import Passage, constant_flow, tracked
from expcam.circuits.program import operation
from expcam.circuits.reading import (
    Active,
    Contribution,
    features_of,
    read_attention,
    read_convolution,
    read_linear,
)
from expcam.circuits.recording import Kept, Layer, Recording
from expcam.circuits.tracking import Tracked
from expcam.circuits.wiring import Kind, Step, not_understood


def follow(
    recording: Recording, active: Mapping[str, Active], *, constants: bool = False
) -> Iterator[Contribution]:
    """What active channels contribute to active channels of the next layers.

    Args:
        recording: The run.
        active: By layer; those of ``INPUT`` are the image's colours. Layers without an entry
            are neither source nor target.
        constants: Whether biases, position embeddings and the like on the way are followed too,
            as a source named ``CONSTANT``. With all channels of all layers active the
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
            follower.tracked.pop(done, None)


def _last_uses(recording: Recording) -> dict[fx.Node, list[fx.Node]]:
    last: dict[fx.Node, fx.Node] = {}
    for n, step in recording.wiring.steps.items():
        last.update(dict.fromkeys(step.sources, n))
    uses: dict[fx.Node, list[fx.Node]] = {}
    for source, n in last.items():
        uses.setdefault(n, []).append(source)
    return uses


class _Follower:
    def __init__(self, recording: Recording, active: Mapping[str, Active], constants: bool) -> None:
        self.recording = recording
        self.active = active
        self.constants = constants
        self.tracked: dict[fx.Node, Tracked | list[Tracked]] = {}
        self.finished = {site.activation: name for name, site in recording.wiring.sites.items()}

    def follow(self, n: fx.Node, step: Step) -> Iterator[Contribution]:
        if step.kind is Kind.IMAGE:
            self.tracked[n] = self._own(INPUT, self.recording.image.shape, axis=1)
            return
        if step.kind in (Kind.LAYER, Kind.ATTENTION):
            assert step.owner is not None
            yield from self._read(n, step, self.recording.layers[step.owner])
        elif step.owner is None:
            self.tracked[n] = self._passed(n, step, self.recording.kept[n])
        if n in self.finished:
            layer = self.recording.layers[self.finished[n]]
            site = self.recording.wiring.sites[layer.name]
            attention = self.recording.wiring.steps[site.node]
            if attention.kind is Kind.ATTENTION:
                self.tracked[n] = self._heads(site.node, attention, layer)
            else:
                self.tracked[n] = self._own(layer.name, layer.shape, layer.axis)

    def _own(self, name: str, shape: torch.Size, axis: int) -> Tracked:
        """A layer's own channels, of which the active ones are followed."""
        found = self.active.get(name)
        active = found is not None and len(found.channels)
        flows = [fl.whole(name, found.rows, found.channels)] if found and active else []
        return tracked(flows, shape, axis)

    def _heads(self, n: fx.Node, step: Step, layer: Layer) -> Tracked:
        """Attention's output: a head has a row for each of its features."""
        shape, features = layer.shape, features_of(self._one(step.sources[0]), layer.axis)
        if features is None:
            raise not_understood(n)
        order = [layer.axis, features]
        order += [d for d in range(len(shape)) if d not in order]
        width, positions = shape[features], torch.Size(shape[d] for d in order[2:])
        numbers = torch.arange(shape.numel()).view([shape[d] for d in order])
        index = numbers.permute([order.index(d) for d in range(len(shape))])
        flows = []
        if (found := self.active.get(layer.name)) is not None:
            channels = found.channels.repeat_interleave(width)
            within = torch.arange(width, device=channels.device).repeat(len(found.channels))
            flows = [
                Flow(
                    source=layer.name,
                    channels=channels,
                    value=found.rows.movedim(features, 1).reshape(-1, *positions),
                    scale=found.rows.new_ones(len(channels)),
                    columns=channels * width + within,
                )
            ]
        return Tracked(flows, layer.channels * width, positions, shape, index=index)

    def _one(self, n: fx.Node) -> Tracked:
        found = self.tracked[n]
        assert isinstance(found, Tracked)
        return found

    def _passed(self, n: fx.Node, step: Step, kept: Kept) -> Tracked | list[Tracked]:
        """A tensor that holds the channels of others."""
        first = self.tracked[step.sources[0]]
        if step.kind is Kind.SAME:
            return first
        if step.kind is Kind.REINDEX:
            # A part of what was split is one of its tensors.
            return first[kept.args[1]] if isinstance(first, list) else self._shown(n, first, kept)
        if step.kind in (Kind.PRODUCT, Kind.SCALE):
            return self._multiplied(n, step, self._one(step.sources[0]), kept)
        if step.kind is Kind.SUM:
            return self._summed(n, step, kept)
        if step.kind is Kind.JOIN:
            return self._joined(n, step, kept)
        source = self._one(step.sources[0])
        along = _along(n, source, self._wanted_axis(n, step, source))
        return Passage(n=n, kept=kept, source=along, constants=self.constants)(step.kind)

    def _wanted_axis(self, n: fx.Node, step: Step, source: Tracked) -> int | None:
        """Along which dimension an operation wants the channels."""
        name = operation(n)
        if name in ("linear", "layer_norm", "matmul", "mm"):
            return len(source.shape) - 1
        anywhere = step.kind is Kind.GATE or name in ("mean", "sum")
        return source.natural_axis() if anywhere else 1

    def _shown(self, n: fx.Node, source: Tracked, kept: Kept) -> Tracked | list[Tracked]:
        """A change of shape: the same whatever the numbers are; zeros are what is filled in."""
        numbers = (source.numbered() + 1).double().contiguous()

        def given(a: Any) -> Any:
            if a is n.args[0]:
                return numbers
            if isinstance(a, fx.Node):  # only its shape counts
                return torch.zeros(self._one(a).shape, dtype=torch.float64)
            return a.cpu() if isinstance(a, Tensor) else a

        args = fx.node.map_aggregate(kept.args, given)
        kwargs = fx.node.map_aggregate(kept.kwargs, given)
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(result, tuple | list):
            return [source.shown(part.round().long() - 1) for part in result]
        return source.shown(result.round().long() - 1)

    def _multiplied(self, n: fx.Node, step: Step, source: Tracked, kept: Kept) -> Tracked:
        """A product with a gate, a scale per channel, or a number."""
        factor, (shape,) = kept.frozen, kept.shapes
        assert factor is not None
        if factor.numel() == 1:
            flows = [fl.scaled_alike(flow, float(factor)) for flow in source.flows]
            return Tracked(
                flows, source.count, source.positions, source.shape, source.axis, source.index
            )
        if shape != source.shape:
            raise not_understood(n)
        along = _along(n, source, source.natural_axis())
        rows = _aligned(factor, shape).movedim(along.axis, 0)
        if step.kind is Kind.SCALE and len(rows) == rows.numel():
            flows = [fl.scaled(flow, rows.flatten()) for flow in along.flows]
        else:
            flows = [fl.gated(flow, rows) for flow in along.flows]
        return tracked(flows, shape, along.axis)

    def _summed(self, n: fx.Node, step: Step, kept: Kept) -> Tracked:
        (shape,) = kept.shapes
        sources = [self._one(each) for each in step.sources]
        axis = _common_axis(sources) or 1
        axis += len(shape) - len(sources[0].shape)
        # The second argument counts with a sign and a factor.
        second = kept.kwargs.get("alpha", 1) * (-1 if operation(n) == "sub" else 1)
        flows: list[Flow] = []
        for a, factor in zip(kept.args[:2], (1, second), strict=False):
            if isinstance(a, fx.Node):
                source = self._one(a)
                if source.shape != shape:
                    source = source.shown(source.numbered().expand(shape))
                own = _along(n, source, axis).flows
            else:
                value = a if isinstance(a, Tensor) else torch.tensor(a)
                own = self._constant(_aligned(value.to(self.recording.image), shape), shape, axis)
            flows += own if factor == 1 else [fl.scaled_alike(flow, factor) for flow in own]
        return tracked(flows, shape, axis)

    def _joined(self, n: fx.Node, step: Step, kept: Kept) -> Tracked:
        (shape,) = kept.shapes
        dim = (kept.args[1] if len(kept.args) > 1 else kept.kwargs.get("dim", 0)) % len(shape)
        axis = _common_axis([self._one(each) for each in step.sources])
        axis = dim if axis is None else axis
        whole = tracked([], shape, axis)
        offset = 0
        for a in kept.args[0]:
            if isinstance(a, fx.Node):
                part = _along(n, self._one(a), axis)
            else:
                part = tracked(self._constant(a, a.shape, axis), a.shape, axis)
            for flow in part.flows:
                if dim == axis:
                    whole.flows.append(fl.shifted(flow, offset, whole.count))
                else:
                    place = dim if dim > axis else dim + 1
                    whole.flows.append(fl.placed(flow, place, offset, whole.positions))
            offset += part.shape[dim]
        return whole

    def _constant(self, tensor: Tensor, shape: torch.Size, axis: int) -> list[Flow]:
        if not self.constants:
            return []
        rows = tensor.expand(shape).movedim(axis, 0)
        return constant_flow(rows, rows.shape[1:])

    def _read(self, n: fx.Node, step: Step, layer: Layer) -> Iterator[Contribution]:
        target = self.active.get(layer.name)
        if target is None:
            return
        source, kept = self._one(step.sources[0]), self.recording.kept[n]
        if step.kind is Kind.ATTENTION:
            yield from read_attention(n, kept, layer, target, source)
        elif operation(n) == "conv2d":
            yield from read_convolution(n, kept, layer, target, _along(n, source, 1))
        else:
            last = _along(n, source, len(source.shape) - 1)
            yield from read_linear(n, kept, layer, target, last)


def _along(n: fx.Node, source: Tracked, axis: int | None) -> Tracked:
    """A tensor with its channels along a dimension, where an operation needs them."""
    found = None if axis is None else source.along(axis)
    if found is None:
        raise not_understood(n)
    return found


def _common_axis(sources: list[Tracked]) -> int | None:
    """The dimension of the channels of the first tensor that has several."""
    axes = (source.natural_axis() for source in sources if source.count > 1)
    return next((axis for axis in axes if axis is not None), None)


def _aligned(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor with as many dimensions as ``shape``, as broadcasting sees it."""
    return tensor.view(*[1] * (len(shape) - tensor.ndim), *tensor.shape)
