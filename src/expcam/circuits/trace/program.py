"""A classifier as a program: the graph of tensor operations that it executes."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from expcam.classifier.frozen import kept
from expcam.errors import WiringError


@dataclass(frozen=True, eq=False)
class Program:
    """The operations of a module, as ``torch.export`` finds them, without its weights.

    Attributes:
        module: The graph; parameters and buffers are inputs of it.
        inputs: For each input of the graph the name of the parameter or buffer that belongs
            there, in order; None for the image.
        constants: Tensors that the module makes by itself, by name.
    """

    module: fx.GraphModule
    inputs: Mapping[str, str | None]
    constants: Mapping[str, Tensor]

    @property
    def image(self) -> fx.Node:
        """The node of the image."""
        for n in self.module.graph.nodes:
            if n.op == "placeholder" and self.inputs[n.name] is None:
                image: fx.Node = n
        return image

    @property
    def output(self) -> fx.Node:
        """The node of what the module gives."""
        (result,) = next(n for n in self.module.graph.nodes if n.op == "output").args
        output: fx.Node = result[0] if isinstance(result, tuple | list) else result
        return output

    @property
    def logits(self) -> fx.Node:
        """The node of the logits; a softmax that the module ends in is behind it."""
        output = self.output
        return output.all_input_nodes[0] if operation(output) in SOFTMAX else output

    def arguments(self, module: nn.Module, x: Tensor) -> list[Any]:
        """What the graph takes: the module's present weights and the image ``x``."""
        module = getattr(module, "_orig_mod", module)
        own: dict[str, Any] = dict(self.constants)
        own |= dict(module.named_parameters(remove_duplicate=False))
        own |= dict(module.named_buffers(remove_duplicate=False))
        return [x if name is None else own[name] for name in self.inputs.values()]


@dataclass(frozen=True, eq=False)
class Call:
    """An operation of a program that is about to run.

    Attributes:
        node: The operation.
        args: Its arguments, as they are in this run.
        kwargs: The same by name.
    """

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """Its result."""
        return self.node.target(*self.args, **self.kwargs)  # type: ignore[operator]


Observe = Callable[[Call, Any], None]
"""Is handed each operation after it has run, and its result."""
Override = Callable[[Call], Any]
"""Gives the result of an operation in place of ``call.run()``."""


class Interpreter(fx.Interpreter):
    """Runs a program.

    Args:
        program: What to run.
        observe: Is told of each operation.
        override: What gives the result of an operation in its place, for some of them.
    """

    def __init__(
        self,
        program: Program,
        *,
        observe: Observe | None = None,
        override: Mapping[fx.Node, Override] | None = None,
    ) -> None:
        super().__init__(program.module)
        self.program = program
        self._observe = observe
        self._override = override or {}
        # Errors are one line; without this torch adds a page to them.
        self.extra_traceback = False

    def __call__(self, module: nn.Module, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images, with a module's weights."""
        return self.logits(self.program.arguments(module, x))

    def logits(self, arguments: Sequence[Any]) -> Tensor:
        """The same, of all that the graph takes (see `Program.arguments`)."""
        result = self.run(*arguments)
        logits: Tensor = result[0] if isinstance(result, tuple | list) else result
        return logits

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; called by torch."""
        if n.op != "call_function":
            return super().run_node(n)
        call = Call(n, *self.fetch_args_kwargs_from_env(n))
        result = self._override[n](call) if n in self._override else call.run()
        if self._observe is not None:
            self._observe(call, result)
        return result


MOST_PROGRAMS = 4
"""So many sizes of images, or states of a module, are remembered."""
_programs: WeakKeyDictionary[nn.Module, dict[Any, Program]] = WeakKeyDictionary()


def capture(module: nn.Module, x: Tensor) -> Program:
    """Trace a module on images of one size; the batch is free.

    The result is kept as long as the module lives, so that only the first image of a size pays
    for it. A module that was changed since is traced anew; new numbers in its weights are no
    change.

    Args:
        module: In evaluation mode.
        x: Normalised images ``(batch, 3, H, W)`` in the dtype of the weights; only their shape
            counts.

    Raises:
        WiringError: ``torch.export`` cannot trace it; the message says why.
    """
    module = getattr(module, "_orig_mod", module)  # behind torch.compile
    key = (x.shape[1:], x.dtype, x.device, _fingerprint(module))
    found = _programs.setdefault(module, {})
    if key not in found:
        while len(found) >= MOST_PROGRAMS:
            del found[next(iter(found))]
        with kept(module):
            found[key] = _exported(module, x)
    return found[key]


def in_dtype_of(module: nn.Module, x: Tensor) -> Tensor:
    """An image in the dtype of a module's weights; as it is where there are none."""
    tensors = (*module.parameters(), *module.buffers())
    dtype = next((each.dtype for each in tensors if each.is_floating_point()), x.dtype)
    return x.to(dtype)


_TORCHS_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has: weights and submodules, hooks, whether it is trained."""


_EMPTY = CellType()


def _fingerprint(module: nn.Module) -> int:
    """Of all that the graph may depend on: modules, code, options, hooks, shapes of weights."""
    modules = [
        (
            name,
            type(each),
            _state(each.forward),
            tuple(_state(hook) for hook in each._forward_hooks.values()),
            tuple(_state(hook) for hook in each._forward_pre_hooks.values()),
            *((key, _state(own)) for key, own in vars(each).items() if key not in _TORCHS_OWN),
        )
        for name, each in module.named_modules()
    ]
    tensors = (*module.named_parameters(), *module.named_buffers())
    shapes = [(name, each.shape, each.dtype) for name, each in tensors]
    return hash((tuple(modules), tuple(shapes)))


def _state(value: object, depth: int = 4) -> object:
    """What tells a value from another that a graph may depend on; it can be hashed.

    Containers are looked into, functions by their code and what they close over. Of anything
    else only its identity counts.
    """
    if isinstance(value, bool | int | float | str | set | frozenset | type(None)):
        return (type(value), repr(value))
    if isinstance(value, Tensor):
        return (id(value), value._version, value.shape, value.dtype)
    if depth and isinstance(value, dict):
        return ("dict", *((repr(key), _state(each, depth - 1)) for key, each in value.items()))
    if depth and isinstance(value, list | tuple):
        return (type(value), *(_state(each, depth - 1) for each in value))
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType) and depth:
        # A new function may get the place in memory of one that is gone.
        cells = [cell for cell in value.__closure__ or () if cell != _EMPTY]
        closed = tuple(_state(cell.cell_contents, 0) for cell in cells)
        return (id(value), value.__code__, closed)
    return (type(value), id(value))


def _exported(module: nn.Module, x: Tensor) -> Program:
    # A batch of one would be taken for a constant.
    example = torch.zeros(2, *x.shape[1:], dtype=x.dtype, device=x.device)
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    free = ({0: torch.export.Dim.AUTO},)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(example)  # so that it does not make while it is traced what it makes once
            exported = torch.export.export(module, (example,), dynamic_shapes=free, strict=False)
    except Exception as error:  # it raises what the module raises, and much of its own
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise WiringError(f"the classifier cannot be traced: {reason.strip()}") from error
    signature = exported.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        raise WiringError("a classifier takes one tensor and gives one tensor")
    _without_autocast(exported.graph_module)
    _out_of_place(
        exported.graph, next(n for n in exported.graph.nodes if n.name in signature.user_inputs)
    )
    exported.graph.eliminate_dead_code()  # what else it gives beside the logits
    _in_simpler_terms(exported.graph)
    placeholders = [n.name for n in exported.graph.nodes if n.op == "placeholder"]
    program = Program(
        module=exported.graph_module,
        inputs={name: names.get(name) for name in placeholders},
        # Also buffers that it registers when it is called.
        constants={k: v for k, v in exported.constants.items() if isinstance(v, Tensor)}
        | {k: v for k, v in exported.state_dict.items() if k not in own},
    )
    if isinstance(program.image.meta["val"].shape[0], int):
        raise WiringError("the classifier cannot be traced for batches of any size")
    _check_faithful(program, module, x)
    return program


@torch.no_grad()
def _check_faithful(program: Program, module: nn.Module, x: Tensor) -> None:
    """Raise `WiringError` when a program does not do what its module does."""
    # Random pixels, so that nothing holds by chance; the caller's random numbers stay.
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, *x.shape[1:], generator=generator).to(x)
    expected = module(image)
    try:
        found = Interpreter(program)(module, image)
        same = torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    except Exception as error:  # whatever the operations raise
        raise WiringError(f"what was traced of the classifier cannot be run: {error}") from error
    if not same:
        raise WiringError("what was traced of the classifier gives other logits than it does")


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


def depending(program: Program) -> set[fx.Node]:
    """The nodes whose values depend on the image's pixels, not only on its shape."""
    return _depending(program.module.graph, program.image)


def _depending(graph: fx.Graph, image: fx.Node) -> set[fx.Node]:
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


def _out_of_place(graph: fx.Graph, image: fx.Node) -> None:
    """Let operations that overwrite a tensor of the image make a new one instead.

    Only a ReLU may overwrite what nothing else reads.
    """
    found = _depending(graph, image)
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


def _without_autocast(module: fx.GraphModule) -> None:
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


def _in_simpler_terms(graph: fx.Graph) -> None:
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
