"""A program in bfloat16, for where gradients are rough anyway: its weights are cast once."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import is_depthwise, option
from expcam.circuits.trace.program import Call, Override, Program


def in_bfloat16(
    program: Program, arguments: Sequence[Any], apart: Collection[fx.Node]
) -> dict[fx.Node, Override]:
    """What runs the convolutions and linear layers of a program inside ``torch.autocast``.

    Autocast would cast their weights at every call. Batch norms are folded into the convolutions
    before them. Depthwise convolutions with a stride run in float32 on a CPU, where torch has no
    fast way back through them in bfloat16.

    Args:
        program: The program.
        arguments: What its graph takes; only the weights count, and may not change later.
        apart: Operations whose own result is looked at: no batch norm is folded into them.
    """
    given = dict(zip(program.inputs, arguments, strict=True))
    found: dict[fx.Node, Override] = {}
    for n in program.module.graph.nodes:
        if operation(n) not in ("conv2d", "linear"):
            continue
        weight, bias = (_given(n, *which, given) for which in ((1, "weight"), (2, "bias")))
        if weight is None:  # it is made anew in every run
            continue
        norm = None if n in apart else _norm_behind(n, given)
        if norm is not None:
            weight, bias = _folded(weight, bias, norm, given)
            found[norm] = _passed
        exact = weight.device.type == "cpu" and _is_strided_depthwise(n)
        found[n] = _run_with(weight, bias, exact=exact)
    return found


def _given(n: fx.Node, place: int, name: str, given: Mapping[str, Any]) -> Tensor | None:
    """An argument of an operation that the program is given; None where it is not."""
    argument = option(n, place, name, None)
    return given.get(argument.name) if isinstance(argument, fx.Node) else None


def _norm_behind(n: fx.Node, given: Mapping[str, Any]) -> fx.Node | None:
    """The batch norm that alone reads what a convolution gives, if its numbers are given."""
    (user, *others) = n.users
    if others or operation(n) != "conv2d" or operation(user) != "batch_norm" or user.kwargs:
        return None
    read = [each.name for each in user.all_input_nodes[1:]]
    trained = bool(user.args[5])
    return user if all(each in given for each in read) and not trained else None


def _folded(
    weight: Tensor, bias: Tensor | None, norm: fx.Node, given: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """The weight and the bias of a convolution with the batch norm behind it."""
    arguments: Any = norm.args
    numbers: list[Any] = [None if each is None else given[each.name] for each in arguments[1:5]]
    scale, shift, mean, variance = numbers
    factor: Tensor = (variance + arguments[7]).rsqrt()
    if scale is not None:
        factor = factor * scale
    moved = factor * ((0 if bias is None else bias) - mean)
    return weight * factor[:, None, None, None], moved if shift is None else moved + shift


def _is_strided_depthwise(n: fx.Node) -> bool:
    if operation(n) != "conv2d" or not is_depthwise(n):
        return False
    stride = option(n, 3, "stride", 1)
    return max([stride] if isinstance(stride, int) else stride) > 1


def _run_with(weight: Tensor, bias: Tensor | None, *, exact: bool) -> Override:
    """Runs an operation with other weights, exactly or in bfloat16."""
    dtype = weight.dtype if exact else torch.bfloat16
    weight = weight.detach().to(dtype)
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    bias = None if bias is None else bias.detach().to(dtype)

    def run(call: Call) -> Tensor:
        kwargs = {k: v for k, v in call.kwargs.items() if k not in ("weight", "bias")}
        args = (call.args[0].to(dtype), weight, bias, *call.args[3:])
        with torch.autocast(weight.device.type, enabled=False):
            result: Tensor = Call(call.node, args, kwargs).run()
        return result

    return run


def _passed(call: Call) -> Tensor:
    """What it was given: the batch norm is folded into the convolution before it."""
    given: Tensor = call.args[0]
    return given
