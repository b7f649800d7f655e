"""A classifier as a program: the graph of tensor operations that it executes."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from expcam.circuits.trace.graph import SOFTMAX, operation
from expcam.circuits.trace.rewriting import in_simpler_terms, out_of_place, without_autocast
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
        return _logits(self.run(*arguments))

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; called by torch."""
        if n.op != "call_function":
            return super().run_node(n)
        call = Call(n, *self.fetch_args_kwargs_from_env(n))
        result = self._override[n](call) if n in self._override else call.run()
        if self._observe is not None:
            self._observe(call, result)
        return result


def _logits(result: Any) -> Tensor:
    logits: Tensor = result[0] if isinstance(result, tuple | list) else result
    return logits


class Branching(Interpreter):
    """Runs a program once, and once more from each change of a result on, without gradients.

    What comes before a change is run once for all of them.
    """

    def branches(
        self, arguments: Sequence[Any], changes: Iterable[tuple[fx.Node, Callable[[Any], Any]]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Logits that the program gives after each change alone.

        Args:
            arguments: What the graph takes (see `Program.arguments`).
            changes: An operation, and what turns its result into another one.

        Yields:
            The number of the change, and logits ``(batch, classes)``; changes come in the order of
            their operations.
        """
        by_node: dict[fx.Node, list[tuple[int, Callable[[Any], Any]]]] = {}
        for number, (n, change) in enumerate(changes):
            by_node.setdefault(n, []).append((number, change))
        nodes = list(self.program.module.graph.nodes)
        self.args_iter = iter(arguments)
        trunk: dict[fx.Node, Any] = {}
        for place, n in enumerate(nodes):
            self.env = trunk
            trunk[n] = self._advanced(n)
            for number, change in by_node.get(n, ()):
                self.env = {**trunk, n: change(trunk[n])}
                for later in nodes[place + 1 :]:
                    self.env[later] = self._advanced(later)
                yield number, _logits(self.env[nodes[-1]])

    def _advanced(self, n: fx.Node) -> Any:
        """The result of an operation; what no later one reads is forgotten."""
        with torch.no_grad():
            result = self.run_node(n)
        for read in self.user_to_last_uses.get(n, ()):
            self.env.pop(read, None)
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
    without_autocast(exported.graph_module)
    out_of_place(
        exported.graph, next(n for n in exported.graph.nodes if n.name in signature.user_inputs)
    )
    exported.graph.eliminate_dead_code()  # what else it gives beside the logits
    in_simpler_terms(exported.graph)
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
