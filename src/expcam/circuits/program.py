"""A classifier as a program: the graph of tensor operations that it executes."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from expcam.errors import WiringError

Replacement = Callable[[Tensor], Tensor]


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
        """The node that gives the logits."""
        (result,) = next(n for n in self.module.graph.nodes if n.op == "output").args
        logits: fx.Node = result[0] if isinstance(result, tuple | list) else result
        return logits

    def arguments(self, module: nn.Module, x: Tensor) -> list[Any]:
        """What the graph takes: the module's present weights and the image ``x``."""
        module = getattr(module, "_orig_mod", module)
        own: dict[str, Any] = dict(self.constants)
        own |= dict(module.named_parameters(remove_duplicate=False))
        own |= dict(module.named_buffers(remove_duplicate=False))
        return [x if name is None else own[name] for name in self.inputs.values()]


MOST_PROGRAMS = 4
"""So many sizes of images, or states of a module, are remembered."""
_programs: WeakKeyDictionary[nn.Module, dict[Any, Program]] = WeakKeyDictionary()


def capture(module: nn.Module, x: Tensor) -> Program:
    """Trace a module on images of one size; the batch is free.

    The result is kept for the module, so that only the first image of a size pays for it; a
    module that has been changed since is traced anew.

    Args:
        module: In evaluation mode.
        x: Normalised images ``(batch, 3, H, W)``; only their shape counts.

    Raises:
        WiringError: ``torch.export`` cannot trace it; the message says why.
    """
    module = getattr(module, "_orig_mod", module)  # behind torch.compile
    key = (x.shape[1:], x.dtype, x.device, _fingerprint(module))
    found = _programs.setdefault(module, {})
    if key not in found:
        while len(found) >= MOST_PROGRAMS:
            del found[next(iter(found))]
        found[key] = _exported(module, x)
    return found[key]


def _fingerprint(module: nn.Module) -> int:
    """Of all that the graph may depend on: kinds of modules, their options, shapes of weights."""
    kinds = [
        (name, type(each), len(each._forward_hooks), len(each._forward_pre_hooks), _options(each))
        for name, each in module.named_modules()
    ]
    tensors = (*module.named_parameters(), *module.named_buffers())
    shapes = [(name, each.shape, each.dtype) for name, each in tensors]
    return hash((tuple(kinds), tuple(shapes)))


def _options(module: nn.Module) -> tuple[tuple[str, object], ...]:
    plain = (bool, int, float, str, tuple, type(None))
    return tuple(
        (name, repr(value))
        for name, value in vars(module).items()
        if isinstance(value, plain) and name != "training"
    )


def _exported(module: nn.Module, x: Tensor) -> Program:
    # A batch of one would be taken for a constant.
    example = torch.zeros(2, *x.shape[1:], dtype=x.dtype, device=x.device)
    free = ({0: torch.export.Dim.AUTO},)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    _out_of_place(
        exported.graph, next(n for n in exported.graph.nodes if n.name in signature.user_inputs)
    )
    placeholders = [n.name for n in exported.graph.nodes if n.op == "placeholder"]
    program = Program(
        module=exported.graph_module,
        inputs={name: names.get(name) for name in placeholders},
        constants={k: v for k, v in exported.constants.items() if isinstance(v, Tensor)},
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
        found = Runner(program)(module, image)
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


class Runner(fx.Interpreter):
    """Executes a program.

    Args:
        program: What to execute.
        replaced: What a node's result is replaced with, by node; it is handed the result.
    """

    def __init__(
        self, program: Program, replaced: Mapping[fx.Node, Replacement] | None = None
    ) -> None:
        super().__init__(program.module)
        self.program = program
        self.replaced = replaced or {}
        # Errors are one line; without this the interpreter adds a page to them.
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
        """Execute a node, as the interpreter asks for it."""
        result = super().run_node(n)
        return self.replaced[n](result) if n in self.replaced else result


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
        alone = old.op != "call_function" or operation(old) not in VIEWS or len(old.users) == 1
        if packet is None or not name.endswith("_") or not alone:
            raise WiringError(f"the operation `{name}` overwrites a view of a tensor")
        n.target = getattr(packet, target._overloadname)
        later = [user for user in old.users if order[user] > order[n]]
        for user in later:
            user.replace_input_with(old, n)


VIEWS = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t"),
    *("swapaxes", "movedim", "squeeze", "unsqueeze", "expand", "expand_as", "slice", "select"),
    *("narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "alias", "detach"),
    *("view_as", "swapdims", "numpy_T", "mT"),
}
"""Operations whose result looks at the memory of their first argument."""


def flat(arguments: Any) -> Iterator[Any]:
    """The arguments of a node, lists unpacked."""
    for argument in arguments:
        if isinstance(argument, tuple | list):
            yield from flat(argument)
        else:
            yield argument
