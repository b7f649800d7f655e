"""Run a classifier once and keep what its circuit needs of each layer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from expcam.circuits.program import Runner, capture, flat, operation
from expcam.circuits.wiring import Kind, Step, Wiring, not_understood, wire


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A channel-mixing layer as it ran on one image.

    Attributes:
        name: As in ``named_modules()``, where it is a module; else the name of its weight.
        axis: The dimension of its activation that its channels are along.
        shape: Of its activation, which is its output behind batch norm and nonlinearity.
        scale: Signed per-channel scale between its weights and the nonlinearity, ``(channels,)``.
    """

    name: str
    axis: int
    shape: torch.Size
    scale: Tensor

    @property
    def channels(self) -> int:
        """How many it has."""
        return self.shape[self.axis]

    def rows(self, tensor: Tensor) -> Tensor:
        """A tensor like the activation, its channels first: ``(channels, *positions)``."""
        return tensor.movedim(self.axis, 0)


Observer = Callable[[Layer, Tensor, Tensor], None]
"""Is handed a layer, its activation and its preactivation, both part of the autograd graph."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What following channels through an operation needs of the run.

    Attributes:
        args: The operation's arguments; in place of tensors that channels are followed through
            stand their nodes.
        kwargs: The same by name.
        shapes: Of its results.
        frozen: What the image made of it: the factors of a gate or a norm, or where a max
            pooling looked; of a product the other factor.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[torch.Size, ...]
    frozen: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A forward pass.

    Attributes:
        wiring: What its operations do to channels.
        image: The image that was run, ``(1, 3, H, W)``.
        layers: In order of execution, by name.
        logits: ``(1, classes)``, part of the autograd graph.
        kept: Of each operation that channels are followed through.
        activations: By layer, unless an observer took them.
        preactivations: What the layers' weights give, the same.
    """

    wiring: Wiring
    image: Tensor
    layers: dict[str, Layer]
    logits: Tensor
    kept: dict[fx.Node, Kept]
    activations: dict[str, Tensor] = field(default_factory=dict)
    preactivations: dict[str, Tensor] = field(default_factory=dict)

    @property
    def output_layer(self) -> str:
        """The layer whose channels are the classes."""
        return self.wiring.output_layer


def record(module: nn.Module, e: Tensor, *, observer: Observer | None = None) -> Recording:
    """Run ``module`` on a normalised image and keep what its circuit needs.

    Args:
        module: In evaluation mode.
        e: Normalised image ``(1, 3, H, W)``.
        observer: Is handed each layer as soon as it has run, and what it gave; the recording
            then keeps neither.

    Raises:
        WiringError: The module cannot be traced, or does something to channels that is
            not understood; the message names the operation.
    """
    wiring = wire(capture(module, e))
    activations: dict[str, Tensor] = {}
    preactivations: dict[str, Tensor] = {}

    def keep(layer: Layer, activation: Tensor, preactivation: Tensor) -> None:
        activations[layer.name], preactivations[layer.name] = activation, preactivation

    recorder = _Recorder(wiring, observer or keep)
    logits = recorder(module, e)
    return Recording(
        wiring=wiring,
        image=e.detach(),
        layers=recorder.layers,
        logits=logits,
        kept=recorder.kept,
        activations=activations,
        preactivations=preactivations,
    )


class _Recorder(Runner):
    def __init__(self, wiring: Wiring, observer: Observer) -> None:
        super().__init__(wiring.program)
        self.wiring = wiring
        self.observer = observer
        self.kept: dict[fx.Node, Kept] = {}
        self.layers: dict[str, Layer] = {}
        self.outputs: dict[str, Tensor] = {}
        self.finished = {site.activation: name for name, site in wiring.sites.items()}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        step = self.wiring.steps.get(n)
        if step is not None and step.kind is not Kind.IMAGE:
            with torch.no_grad():
                self._keep(n, step, result)
            if step.kind in (Kind.LAYER, Kind.ATTENTION):
                assert step.owner is not None
                self.outputs[step.owner] = result
        if n in self.finished:
            self._finish(self.finished[n], result)
        return result

    def _keep(self, n: fx.Node, step: Step, result: Any) -> None:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        names = set(step.sources)
        frozen = None
        # What is still a layer's own is not followed, but starts anew behind it.
        if step.kind is Kind.NORM or (step.kind in _FROZEN and step.owner is None):
            frozen = _FROZEN[step.kind](n, args, result)
        if step.kind in (Kind.PRODUCT, Kind.SCALE):
            frozen = _factor(n, args, step.sources[0], result)
        self.kept[n] = Kept(
            args=tuple(_without(a, value, names) for a, value in zip(n.args, args, strict=True)),
            kwargs={k: _without(n.kwargs[k], value, names) for k, value in kwargs.items()},
            shapes=tuple(each.shape for each in flat((result,))),
            frozen=frozen,
        )

    def _finish(self, name: str, activation: Tensor) -> None:
        site = self.wiring.sites[name]
        axis = _axis(self.wiring.steps[site.node].kind, site.node, activation)
        scale = activation.new_ones(activation.shape[axis])
        for norm in site.norms:
            scale = scale * norm_scale(norm, self.kept[norm])
        self.layers[name] = Layer(
            name=name,
            axis=axis,
            shape=activation.shape,
            scale=scale,
        )
        self.observer(self.layers[name], activation, self.outputs.pop(name))


def norm_scale(n: fx.Node, kept: Kept) -> Tensor:
    """The factor by which a batch, group or instance norm scales each channel, ``(channels,)``."""
    _, *rest = kept.args
    if operation(n) == "batch_norm":
        weight, _, _, variance, _, _, epsilon, *_ = rest
        scale: Tensor = (variance + epsilon).rsqrt()
    else:
        assert kept.frozen is not None
        place = 1 if operation(n) == "group_norm" else 0
        weight = rest[place] if len(rest) > place else None
        scale = kept.frozen.repeat_interleave(kept.shapes[0][1] // len(kept.frozen))
    return scale if weight is None else scale * weight


def _axis(kind: Kind, n: fx.Node, activation: Tensor) -> int:
    if kind is Kind.ATTENTION:
        return activation.ndim - 3  # heads, positions, features
    return 1 if operation(n) == "conv2d" else activation.ndim - 1


def _without(node: Any, value: Any, names: set[Any]) -> Any:
    """An argument's value, or the node itself where channels are followed through it."""
    if isinstance(node, tuple | list):
        return [_without(a, v, names) for a, v in zip(node, value, strict=True)]
    if isinstance(node, fx.Node) and node in names:
        return node
    return value.detach() if isinstance(value, Tensor) else value


def _gate(n: fx.Node, args: tuple[Any, ...], result: Tensor) -> Tensor:
    """Which share of each element passes a nonlinearity.

    For a ReLU it is 0 or 1, so that parts that add up to its input add up to its output.
    """
    before = args[0]
    if operation(n) == "relu":
        return result > 0  # it may have overwritten its input
    return torch.where(before == 0, torch.zeros_like(result), result / before)


def _picks(_: fx.Node, args: tuple[Any, ...], __: Tensor) -> Tensor:
    return torch.ops.aten.max_pool2d_with_indices(*args)[1]  # type: ignore[no-any-return]


def _norm(n: fx.Node, args: tuple[Any, ...], _: Tensor) -> Tensor:
    """One over the standard deviation: of each position, or of each group of channels."""
    x = args[0]
    if operation(n) == "layer_norm":
        if len(args[1]) != 1:
            raise not_understood(n)
        epsilon = args[4] if len(args) > 4 else 1e-5
        return (x.var(-1, correction=0) + epsilon).rsqrt()  # type: ignore[no-any-return]
    groups = args[1] if operation(n) == "group_norm" else x.shape[1]
    place = 4 if operation(n) == "group_norm" else 7
    epsilon = args[place] if len(args) > place else 1e-5
    return (x.reshape(groups, -1).var(1, correction=0) + epsilon).rsqrt()  # type: ignore[no-any-return]


def _factor(n: fx.Node, args: tuple[Any, ...], passing: fx.Node, result: Tensor) -> Tensor:
    """What a tensor is multiplied with."""
    if operation(n) == "neg":
        return result.new_tensor(-1.0)
    factor = args[1] if n.args[0] is passing else args[0]
    factor = factor.detach() if isinstance(factor, Tensor) else result.new_tensor(factor)
    return 1 / factor if operation(n) == "div" else factor


_FROZEN: dict[Kind, Callable[[fx.Node, tuple[Any, ...], Tensor], Tensor]] = {
    Kind.GATE: _gate,
    Kind.MAX_POOL: _picks,
    Kind.NORM: _norm,
}
