"""Writing the graph of a program in terms that are easier to follow."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from expcam.circuits.trace.graph import SOFTMAX, VIEWS, depending, operation
from expcam.errors import WiringError


def out_of_place(graph: fx.Graph, image: fx.Node) -> None:
    """Let operations that overwrite a tensor of the image make a new one instead.

    Only a ReLU may overwrite what nothing else reads.
    """
    found = depending(graph, image)
    order = {n: place for place, n in enumerate(graph.nodes)}
    for n in list(graph.nodes):
        target = n.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        old = n.args[0]
        if not isinstance(old, fx.Node) or old not in found:
            continue
        name = target.overloadpacket.__name__
        # A ReLU's input is nobody's business behind a batch norm or a sum: that saves memory.
        if name == "relu_" and len(old.users) == 1 and operation(old) in ("batch_norm", "add"):
            continue
        packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
        parts = _parts(old)
        alone = old.op != "call_function" or operation(old) not in VIEWS or len(old.users) == 1
        if packet is None or not name.endswith("_") or not (alone or parts):
            raise WiringError(f"the operation `{name}` overwrites a view of a tensor")
        n.target = getattr(packet, target._overloadname)
        if name == "copy_":  # it has no derivative
            n.target, n.args = torch.ops.aten.expand_as.default, (n.args[1], old)
        _replace_later(order, n, old, n)
        if parts:
            whole = n
            for part in parts:
                whole = _inserted_behind(whole, part, found)
                order[whole] = order[n]
            _replace_later(order, n, parts[-1].all_input_nodes[0], whole)


def _replace_later(order: Mapping[fx.Node, int], n: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Let what comes after an operation read its result in place of what it has overwritten."""
    for user in [user for user in old.users if order[user] > order[n]]:
        user.replace_input_with(old, new)


def _parts(n: fx.Node) -> list[fx.Node]:
    """The slices by which a tensor is a part of another, the last one first."""
    parts = []
    while operation(n) in ("slice", "select"):
        parts.append(n)
        n = n.all_input_nodes[0]
    return parts


def _inserted_behind(written: fx.Node, part: fx.Node, found: set[fx.Node]) -> fx.Node:
    """The tensor that a part was of, with what was written in the part's place."""
    scatter = getattr(torch.ops.aten, f"{operation(part)}_scatter").default
    with written.graph.inserting_after(written):
        made = written.graph.call_function(scatter, (part.args[0], written, *part.args[1:]))
    made.meta = {**written.meta, "val": part.all_input_nodes[0].meta["val"]}
    found.add(made)
    return made


def without_autocast(module: fx.GraphModule) -> None:
    """Write what runs with autocasting turned off, a graph of its own, as part of the graph."""
    for n in list(module.graph.nodes):
        if operation(n) != "wrap_with_autocast" or n.args[2]:
            continue
        _, _, _, _, inner, *values = n.args
        body: Any = module.get_submodule(inner.target).graph
        inputs = [each for each in body.nodes if each.op == "placeholder"]
        with module.graph.inserting_before(n):
            copied: Any = module.graph.graph_copy(body, dict(zip(inputs, values, strict=True)))
        for user in list(n.users):
            user.replace_all_uses_with(copied[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(n)


def in_simpler_terms(graph: fx.Graph) -> None:
    """Write some operations as those that they are made of; the logits get one of their own."""
    aten = torch.ops.aten
    for n in list(graph.nodes):
        with graph.inserting_before(n):
            if operation(n) == "addcmul":
                added, one, other = n.args
                product = _inserted(n, aten.mul.Tensor, one, other)
                if (value := n.kwargs.get("value", 1)) != 1:
                    product = _inserted(n, aten.mul.Tensor, product, value)
                simpler = _inserted(n, aten.add.Tensor, added, product)
            elif operation(n) == "stack":
                parts, dim = (*n.args, n.kwargs.get("dim", 0))[:2]
                apart = [_inserted(n, aten.unsqueeze.default, part, dim) for part in parts]
                simpler = _inserted(n, aten.cat.default, apart, dim)
            elif n.op == "output":
                _mark_logits(n)
                continue
            else:
                continue
        n.replace_all_uses_with(simpler)
        graph.erase_node(n)


def _mark_logits(output: fx.Node) -> None:
    """Let the logits be an operation of their own, in front of a softmax."""
    user, (logits,) = output, output.all_input_nodes
    if operation(logits) in SOFTMAX:
        user, (logits,) = logits, logits.all_input_nodes
    with output.graph.inserting_before(user):
        user.replace_input_with(logits, _inserted(logits, torch.ops.aten.alias.default, logits))


def _inserted(instead: fx.Node, packet: Any, *args: Any) -> fx.Node:
    """A new operation, where the graph is being written, in the place of another."""
    made = instead.graph.call_function(packet, args)
    value = packet(*fx.node.map_arg(args, lambda a: a.meta["val"]))
    made.meta = {**instead.meta, "val": value}
    return made
