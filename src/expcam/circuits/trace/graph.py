"""Reading the graph of a program: what its nodes are called, and what depends on the image."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx


def operation(n: fx.Node) -> str:
    """What a node does: ``conv2d``, ``add``, …; in place or not is the same."""
    if n.op != "call_function":
        return n.op
    target = n.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket.__name__).removesuffix("_")
    return str(getattr(target, "__name__", target))


def where(n: fx.Node) -> str:
    """Path of the module that a node was executed in, as in ``named_modules()``."""
    stack = n.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module")]
    return paths[-1] if paths else ""


SOFTMAX = {"softmax", "log_softmax"}


FRESH = {
    *("new_zeros", "new_ones", "new_full", "new_empty"),
    *("zeros_like", "ones_like", "full_like", "empty_like"),
}
"""Operations that take only the shape of a tensor."""


def depending(graph: fx.Graph, image: fx.Node) -> set[fx.Node]:
    """The nodes whose values depend on the image's pixels, not only on its shape."""
    found = {image}
    for n in graph.nodes:
        value = n.meta.get("val")
        tensors = value if isinstance(value, tuple | list) else (value,)
        if (
            n.op == "call_function"
            and operation(n) not in FRESH
            and any(isinstance(each, Tensor) for each in tensors)
            and any(each in found for each in n.all_input_nodes)
        ):
            found.add(n)
    return found


VIEWS = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t"),
    *("swapaxes", "movedim", "squeeze", "unsqueeze", "expand", "expand_as", "slice", "select"),
    *("narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "alias", "detach"),
    *("view_as", "reshape_as", "swapdims", "numpy_T", "mT", "unfold"),
}
"""Operations whose result looks at the memory of their first argument."""


def flat(arguments: Any) -> Iterator[Any]:
    """The arguments of a node, lists unpacked."""
    for argument in arguments:
        if isinstance(argument, tuple | list):
            yield from flat(argument)
        else:
            yield argument
