"""Follow channels from layer to layer, with what the image made of every operation held fixed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits import flows as fl
from expcam.circuits.flows import CONSTANT, INPUT, Flow
from expcam.circuits.program import operation
from expcam.circuits.reading import (
    Active,
    Contribution,
    features_of,
    read_attention,
    read_convolution,
    read_linear,
    weight_and_bias,
)
from expcam.circuits.recording import Kept, Layer, Recording, norm_scale
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
            self._start(n, INPUT, self.recording.image.shape, axis=1)
            return
        if step.kind in (Kind.LAYER, Kind.ATTENTION):
            assert step.owner is not None
            yield from self._read(n, self.recording.layers[step.owner])
        elif step.owner is None:
            sources = [self.tracked[source] for source in step.sources]
            self.tracked[n] = self._passed(n, step, sources, self.recording.kept[n])
        if n in self.finished:
            layer = self.recording.layers[self.finished[n]]
            self._start(n, layer.name, layer.shape, layer.axis)

    def _start(self, n: fx.Node, name: str, shape: torch.Size, axis: int) -> None:
        """A layer's own channels, of which the active ones are followed."""
        if n in self._attentions():
            self.tracked[n] = self._heads(name, shape, axis)
            return
        found = self.active.get(name)
        flows = [] if found is None else [fl.whole(name, found.rows, found.channels)]
        self.tracked[n] = _tracked(flows, shape, axis)

    def _attentions(self) -> set[fx.Node]:
        steps = self.recording.wiring.steps
        return {
            site.activation
            for site in self.recording.wiring.sites.values()
            if steps[site.node].kind is Kind.ATTENTION
        }

    def _heads(self, name: str, shape: torch.Size, axis: int) -> Tracked:
        """Attention's output: a head has a row for each of its features."""
        (value,) = self.recording.wiring.steps[self.recording.wiring.sites[name].node].sources
        features = features_of(self._one(value), axis)
        if features is None:
            raise not_understood(self.recording.wiring.sites[name].node)
        ordered = (axis, features)
        order = [*ordered, *(d for d in range(len(shape)) if d not in ordered)]
        positions = torch.Size(shape[d] for d in order[2:])
        width = shape[features]
        count = shape[axis] * width
        numbers = torch.arange(shape.numel()).view([shape[d] for d in order])
        index = numbers.permute([order.index(d) for d in range(len(shape))])
        flows = []
        if (found := self.active.get(name)) is not None:
            rows = found.rows.movedim(features, 1)
            columns = found.channels[:, None] * width + torch.arange(
                width, device=found.channels.device
            )
            flows = [
                Flow(
                    source=name,
                    channels=found.channels.repeat_interleave(width),
                    value=rows.reshape(-1, *positions),
                    scale=rows.new_ones(columns.numel()),
                    columns=columns.flatten(),
                )
            ]
        return Tracked(flows, count, positions, shape, index=index)

    def _one(self, n: fx.Node) -> Tracked:
        found = self.tracked[n]
        assert isinstance(found, Tracked)
        return found

    def _passed(
        self, n: fx.Node, step: Step, sources: list[Any], kept: Kept
    ) -> Tracked | list[Tracked]:
        """A tensor that holds the channels of others."""
        if step.kind is Kind.SAME:
            return sources[0]  # type: ignore[no-any-return]
        if step.kind is Kind.REINDEX:
            return self._reindexed(n, sources[0], kept)
        (shape,) = kept.shapes
        if step.kind in (Kind.PRODUCT, Kind.SCALE):
            return self._multiplied(n, step, sources[0], kept, shape)
        if step.kind in (Kind.SUM, Kind.JOIN):
            return self._combined(n, step, sources, kept, shape)
        axis = self._axis(n, step, sources[0])
        tracked = sources[0].along(axis)
        if tracked is None:
            raise not_understood(n)
        after = _Passed(n, kept, tracked, axis, shape, self.constants)
        flows = getattr(after, step.kind.name.lower())()
        return _tracked(flows, shape, after.new_axis)

    def _axis(self, n: fx.Node, step: Step, source: Tracked) -> int:
        """Along which dimension an operation wants the channels."""
        if operation(n) in ("linear", "layer_norm", "matmul", "mm"):
            return len(source.shape) - 1
        if step.kind in (Kind.GATE, Kind.AVERAGE):
            axis = source.natural_axis()
            if axis is None:
                raise not_understood(n)
            return axis
        return 1

    def _reindexed(self, n: fx.Node, source: Any, kept: Kept) -> Tracked | list[Tracked]:
        if isinstance(source, list):  # one of the parts of a tensor
            return source[kept.args[1]]  # type: ignore[no-any-return]
        # Shapes change in the same way whatever the numbers are; zeros are what is filled in.
        numbers = (source.numbered() + 1).double().contiguous()
        of_others: Callable[[Any], Any] = lambda a: (  # noqa: E731
            numbers if a is n.args[0] else _on_cpu(a, self.tracked)
        )
        args = fx.node.map_aggregate(kept.args, of_others)
        kwargs = fx.node.map_aggregate(kept.kwargs, of_others)
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(result, tuple | list):
            return [source.shown(part.round().long() - 1) for part in result]
        shown: Tracked = source.shown(result.round().long() - 1)
        return shown

    def _multiplied(
        self, n: fx.Node, step: Step, source: Tracked, kept: Kept, shape: torch.Size
    ) -> Tracked:
        """A product with a gate, a scale per channel, or a number."""
        factor: Any = next(iter(_others(kept)), -1.0)
        if operation(n) == "div":
            factor = 1 / factor
        if not isinstance(factor, Tensor) or factor.numel() == 1:
            flows = [fl.scaled_alike(flow, float(factor)) for flow in source.flows]
            return Tracked(
                flows, source.count, source.positions, source.shape, source.axis, source.index
            )
        axis = source.natural_axis()
        tracked = None if axis is None else source.along(axis)
        if axis is None or tracked is None or shape != source.shape:
            raise not_understood(n)
        rows = _aligned(factor, shape).movedim(axis, 0)
        fixed = step.kind is Kind.SCALE
        if fixed and rows[0].numel() == 1 and len(rows) > 1:
            flows = [fl.scaled(flow, rows.flatten()) for flow in tracked.flows]
        else:
            flows = [fl.gated(flow, rows) for flow in tracked.flows]
        return _tracked(flows, shape, axis)

    def _combined(
        self, n: fx.Node, step: Step, sources: list[Tracked], kept: Kept, shape: torch.Size
    ) -> Tracked:
        """A sum or a concatenation."""
        axes = [source.natural_axis() for source in sources]
        wide = [a for s, a in zip(sources, axes, strict=True) if a is not None and s.count > 1]
        axis = next(iter(wide), 1)
        if step.kind is Kind.SUM:
            axis += len(shape) - len(sources[0].shape)
            return self._summed(n, sources, kept, shape, axis)
        dim = (kept.args[1] if len(kept.args) > 1 else kept.kwargs.get("dim", 0)) % len(shape)
        if not wide:
            axis = dim
        by_node = dict(zip(step.sources, sources, strict=True))
        flows: list[Flow] = []
        offset = 0
        positions = torch.Size(side for d, side in enumerate(shape) if d != axis)
        for part in kept.args[0]:
            source = by_node.get(part) if isinstance(part, fx.Node) else None
            size = source.shape[dim] if source is not None else part.shape[dim]
            if source is None:
                tracked = _tracked(self._constant(part.movedim(axis, 0)), part.shape, axis)
            else:
                found = source.along(axis)
                if found is None:
                    raise not_understood(n)
                tracked = found
            for flow in tracked.flows:
                if dim == axis:
                    flows.append(fl.shifted(flow, offset, shape[axis]))
                else:
                    place = (dim if dim > axis else dim + 1) % len(shape)
                    value = flow.value.new_zeros(len(flow.value), *positions)
                    value.narrow(place, offset, size).copy_(flow.value)
                    flows.append(fl.mapped(flow, lambda _, value=value: value))  # type: ignore[misc]
            offset += size
        return _tracked(flows, shape, axis)

    def _summed(
        self, n: fx.Node, sources: list[Tracked], kept: Kept, shape: torch.Size, axis: int
    ) -> Tracked:
        parts = []
        for source in sources:
            wide = source
            if source.shape != shape:
                wide = source.shown(source.numbered().expand(shape))
            tracked = wide.along(axis)
            if tracked is None:
                raise not_understood(n)
            parts.append(tracked)
        # The second argument counts with a sign and a factor.
        second = kept.kwargs.get("alpha", 1) * (-1 if operation(n) == "sub" else 1)
        flows = []
        for place, a in enumerate(kept.args[:2]):
            if isinstance(a, fx.Node):
                own = parts.pop(0).flows
            else:
                value = a if isinstance(a, Tensor) else torch.tensor(a)
                rows = _aligned(value.to(self.recording.image), shape).expand(shape)
                own = self._constant(rows.movedim(axis, 0))
            factor = second if place == 1 else 1
            flows += own if factor == 1 else [fl.scaled_alike(flow, factor) for flow in own]
        return _tracked(flows, shape, axis)

    def _constant(self, rows: Tensor) -> list[Flow]:
        if not self.constants:
            return []
        return [fl.whole(CONSTANT, rows, torch.arange(len(rows), device=rows.device))]

    def _read(self, n: fx.Node, layer: Layer) -> Iterator[Contribution]:
        target = self.active.get(layer.name)
        if target is None:
            return
        step = self.recording.wiring.steps[n]
        source, kept = self._one(step.sources[0]), self.recording.kept[n]
        if step.kind is Kind.ATTENTION:
            yield from read_attention(n, kept, layer, target, source)
            return
        convolution = operation(n) == "conv2d"
        tracked = source.along(1 if convolution else len(source.shape) - 1)
        if tracked is None:
            raise not_understood(n)
        read = read_convolution if convolution else read_linear
        yield from read(n, kept, layer, target, tracked)


def _tracked(flows: list[Flow], shape: torch.Size, axis: int) -> Tracked:
    """A tensor whose channels are along one of its dimensions."""
    positions = torch.Size(side for d, side in enumerate(shape) if d != axis)
    return Tracked(flows, shape[axis], positions, shape, axis)


class _Passed:
    """The operations that keep each channel's place; a method for each kind."""

    def __init__(
        self, n: fx.Node, kept: Kept, source: Tracked, axis: int, shape: torch.Size,
        constants: bool,
    ) -> None:  # fmt: skip
        self.n, self.kept, self.source, self.axis, self.shape = n, kept, source, axis, shape
        self.constants = constants
        self.flows = source.flows
        self.new_axis = axis

    def _with(self, flows: list[Flow], constant: Tensor | None) -> list[Flow]:
        """Add what an operation adds by itself, ``(channels,)``."""
        if not self.constants or constant is None:
            return flows
        positions = [side for d, side in enumerate(self.shape) if d != self.axis]
        rows = constant.view(-1, *[1] * len(positions)).expand(-1, *positions)
        return [*flows, fl.whole(CONSTANT, rows, torch.arange(len(rows), device=rows.device))]

    def batch_norm(self) -> list[Flow]:
        scale = norm_scale(self.n, self.kept)
        _, _, bias, mean, *_ = self.kept.args
        constant = -mean * scale if bias is None else bias - mean * scale
        return self._with([fl.scaled(flow, scale) for flow in self.flows], constant)

    def norm(self) -> list[Flow]:
        frozen = self.kept.frozen
        assert frozen is not None
        _, *rest = self.kept.args
        if operation(self.n) == "layer_norm":
            weight, bias = (*rest[1:3], None, None)[:2]
            flows = [
                fl.weighted(fl.centred(flow, self.source.count), frozen) for flow in self.flows
            ]
            if weight is not None:
                flows = [fl.scaled(flow, weight) for flow in flows]
            return self._with(flows, bias)
        scale = norm_scale(self.n, self.kept)
        bias = (*rest[2:], None)[0] if operation(self.n) == "group_norm" else (*rest[1:], None)[0]
        group = self.source.count // len(frozen)
        flows = [fl.scaled(flow, scale) for flow in self.flows]
        for flow in self.flows:
            # The mean over a group's channels and positions is taken from all of them.
            mix = flow.mixed(self.source.count)
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
        return self._with(flows, bias)

    def projection(self) -> list[Flow]:
        weight, bias = weight_and_bias(self.n, self.kept)
        return self._with([fl.projected(flow, weight) for flow in self.flows], bias)

    def gate(self) -> list[Flow]:
        assert self.kept.frozen is not None
        gate = self.kept.frozen.movedim(self.axis, 0)
        return [fl.gated(flow, gate) for flow in self.flows]

    def max_pool(self) -> list[Flow]:
        assert self.kept.frozen is not None
        return [fl.picked(flow, self.kept.frozen.movedim(1, 0)) for flow in self.flows]

    def depthwise(self) -> list[Flow]:
        _, weight, bias, *rest = (*self.kept.args, None)[: max(3, len(self.kept.args))]
        rest = rest[:3]

        def convolve(value: Tensor, kernels: Tensor) -> Tensor:
            return torch.ops.aten.conv2d(value, kernels, None, *rest, groups=len(kernels))  # type: ignore[no-any-return]

        return self._with([fl.depthwise(flow, weight, convolve) for flow in self.flows], bias)

    def average(self) -> list[Flow]:
        name = operation(self.n)
        if name in ("mean", "sum"):
            return self._reduced(name)
        return [
            fl.mapped(flow, lambda v: self.n.target(v, *self.kept.args[1:], **self.kept.kwargs))  # type: ignore[operator]
            for flow in self.flows
        ]

    def _reduced(self, name: str) -> list[Flow]:
        dims = self.kept.args[1] if len(self.kept.args) > 1 else self.kept.kwargs.get("dim")
        keep = bool((*self.kept.args[2:3], self.kept.kwargs.get("keepdim", False))[0])
        ndim = len(self.source.shape)
        dims = [d % ndim for d in dims] if dims else list(range(ndim))
        if self.axis in dims:
            raise not_understood(self.n)
        # In a flow's value the rows come first, then the positions.
        places = [d + 1 if d < self.axis else d for d in dims]
        if not keep:
            self.new_axis -= sum(d < self.axis for d in dims)
        reduce = torch.mean if name == "mean" else torch.sum
        return [fl.mapped(flow, lambda v: reduce(v, places, keep)) for flow in self.flows]


def _others(kept: Kept) -> list[Any]:
    """The arguments that hold no channels."""
    return [value for value in kept.args[:2] if not isinstance(value, fx.Node)]


def _aligned(tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor with as many dimensions as ``shape``, as broadcasting sees it."""
    return tensor.view(*[1] * (len(shape) - tensor.ndim), *tensor.shape)


def _on_cpu(value: Any, tracked: Mapping[Any, Any]) -> Any:
    if isinstance(value, fx.Node):
        return torch.zeros(tracked[value].shape, dtype=torch.float64)
    return value.cpu() if isinstance(value, Tensor) else value
