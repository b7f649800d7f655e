"""What is kept of an operation in a run, and what it did to this image, which is held fixed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits.trace.graph import flat, operation
from expcam.circuits.trace.kinds import Kind, reduced_dims
from expcam.circuits.trace.program import Call
from expcam.circuits.trace.wiring import Step, not_understood


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of an operation in a run, so that channels can be followed through it.

    Attributes:
        args: Its arguments. A tensor whose channels are followed is not kept; the operation
            that gave it stands in its place.
        kwargs: The same by name.
        shapes: The shapes of its results.
        frozen: What it did to this image: the factors of a gate or a norm, the places that a max
            pooling picked, or the other factor of a product.
        added: What a nonlinearity makes of zeros, where that is not zero.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[torch.Size, ...]
    frozen: Tensor | None = None
    added: Tensor | None = None


def keep(call: Call, step: Step, result: Any) -> Kept:
    """What following channels through an operation needs of it, once it has run."""
    n, names = call.node, set(step.sources)
    frozen = None
    # As long as a tensor holds a layer's own channels it is not followed: a flow starts behind it.
    if step.kind is Kind.NORM or (step.kind in _FROZEN and step.owner is None):
        frozen = _FROZEN[step.kind](n, call.args, result)
    if step.kind in (Kind.PRODUCT, Kind.SCALE):
        frozen = _factor(n, call.args, step.sources[0], result)
    added = None
    if step.kind is Kind.GATE and frozen is not None and operation(n) != "relu":
        zeros = call.args[0] == 0
        if bool((result[zeros] != 0).any()):
            added = torch.where(zeros, result, 0)
    return Kept(
        args=tuple(_without(a, value, names) for a, value in zip(n.args, call.args, strict=True)),
        kwargs={k: _without(n.kwargs[k], value, names) for k, value in call.kwargs.items()},
        shapes=tuple(each.shape for each in flat((result,))),
        frozen=frozen,
        added=added,
    )


def weight_and_bias(n: fx.Node, kept: Kept) -> tuple[Tensor, Tensor | None]:
    """Weight ``(out, in)`` and bias of a linear layer."""
    if operation(n) == "linear":
        bias = kept.args[2] if len(kept.args) > 2 else kept.kwargs.get("bias")
        return kept.args[1], bias
    return kept.args[1].T, None


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


def _picks(_: fx.Node, args: tuple[Any, ...], result: Any) -> Tensor:
    """Where in its plane a max pooling found each number."""
    if isinstance(result, tuple | list):
        return result[1]  # type: ignore[no-any-return]
    return torch.ops.aten.max_pool2d_with_indices(*args)[1]  # type: ignore[no-any-return]


def _highest(n: fx.Node, args: tuple[Any, ...], _: Any) -> Tensor:
    """1 where a maximum over some dimensions found its number, else 0."""
    x, dims = args[0], reduced_dims(n, args[0].ndim)
    order = [*(d for d in range(x.ndim) if d not in dims), *dims]
    moved = x.permute(order)
    rows = moved.flatten(x.ndim - len(dims))
    first = torch.zeros_like(rows).scatter_(-1, rows.argmax(-1, keepdim=True), 1)
    return first.view(moved.shape).permute([order.index(d) for d in range(x.ndim)])


def _norm(n: fx.Node, args: tuple[Any, ...], _: Tensor) -> Tensor:
    """One over the standard deviation: of each position, or of each group of channels."""
    x = args[0]
    if operation(n) in ("layer_norm", "rms_norm"):
        if len(args[1]) != 1:
            raise not_understood(n)
        if operation(n) == "rms_norm":
            epsilon = args[3] if len(args) > 3 and args[3] is not None else torch.finfo(x.dtype).eps
            return (x.square().mean(-1) + epsilon).rsqrt()  # type: ignore[no-any-return]
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
    Kind.MAX: _highest,
    Kind.NORM: _norm,
}
