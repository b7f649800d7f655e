"""What each operation of a classifier does to channels, from its graph alone.

Some operations mix channels: convolutions, linear layers, attention. They are the layers of a
circuit. All others pass channels on, or, as in squeeze-and-excitation, gate those that pass.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from torch import Tensor, fx

from expcam.circuits.trace.program import VIEWS, Program, depending, flat, operation, where
from expcam.errors import WiringError

ELEMENTWISE = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "softplus", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "hardshrink"),
    *("softshrink", "clamp", "clamp_min", "clamp_max", "abs", "square"),
}
SAME = {
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous"),
    *("clone", "alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy"),
}
REINDEXING = VIEWS - SAME | {
    *("roll", "flip", "pad", "constant_pad_nd", "index", "index_select", "repeat", "getitem"),
    *("repeat_interleave", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
    *("upsample_nearest2d",),
}
SELECTING = {
    *("slice", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
    *("getitem", "index", "index_select", "roll", "flip", "channel_shuffle"),
}
SPREADING = {"expand", "expand_as", "repeat", "unsqueeze", "view", "reshape", "upsample_nearest2d"}
AVERAGING = {"avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "upsample_bilinear2d"}
NORMALISING = {"layer_norm", "group_norm", "instance_norm"}
JOINING = {"cat", "concat", "concatenate"}
PRODUCTS = {"matmul", "bmm", "einsum"}


class Kind(Enum):
    """What an operation does to the channels that it is given."""

    IMAGE = auto()
    LAYER = auto()
    """Mixes channels; its own are nodes of the circuit."""
    ATTENTION = auto()
    """Mixes positions by weights that depend on the image; its heads are nodes."""
    PROJECTION = auto()
    """Mixes channels without nodes: into queries, keys and values, or back to the stream."""
    DEPTHWISE = auto()
    """A convolution with one kernel per channel, which mixes none."""
    BATCH_NORM = auto()
    NORM = auto()
    """A layer, group or instance norm, whose scale depends on the image."""
    GATE = auto()
    """An elementwise nonlinearity: it lets a share of each number pass."""
    SAME = auto()
    """Changes nothing."""
    REINDEX = auto()
    """Moves numbers to other places: a change of shape, a shuffle, a part of a tensor."""
    AVERAGE = auto()
    MAX_POOL = auto()
    JOIN = auto()
    """A concatenation."""
    SUM = auto()
    SCALE = auto()
    """Multiplies by something that is the same for every image."""
    PRODUCT = auto()
    """Multiplies by something that the image makes too."""


SIMPLE = {
    **dict.fromkeys(ELEMENTWISE, Kind.GATE),
    **dict.fromkeys(SAME, Kind.SAME),
    **dict.fromkeys(REINDEXING, Kind.REINDEX),
    **dict.fromkeys(AVERAGING, Kind.AVERAGE),
    **dict.fromkeys(NORMALISING, Kind.NORM),
    **dict.fromkeys(JOINING, Kind.JOIN),
    **dict.fromkeys(("mul", "div", "neg"), Kind.SCALE),
    **dict.fromkeys(("add", "sub"), Kind.SUM),
    "batch_norm": Kind.BATCH_NORM,
    "max_pool2d": Kind.MAX_POOL,
}
"""What an operation does, where its name tells."""


@dataclass(frozen=True)
class Step:
    """An operation that channels are followed through.

    Attributes:
        kind: What it does to them.
        sources: The tensors that they are in, in the order of its arguments.
        owner: The layer whose own channels its result still holds, one to one, or None.
    """

    kind: Kind
    sources: tuple[fx.Node, ...]
    owner: str | None = None


@dataclass
class Site:
    """Where a layer stands in the graph.

    Attributes:
        node: The operation that mixes channels.
        activation: The operation that gives its activation: the last of the batch norm and the
            nonlinearity that follow it, before any sum, concatenation or pooling.
        norms: The batch norms behind it that come before the nonlinearity.
        rectified: Whether a nonlinearity has followed it.
    """

    node: fx.Node
    activation: fx.Node
    norms: list[fx.Node] = field(default_factory=list)
    rectified: bool = False


@dataclass(frozen=True)
class Wiring:
    """The layers of a classifier, and how channels get from one to the next.

    Attributes:
        program: The graph.
        steps: What each operation on the way from the image to the logits does to channels.
        sites: The layers, by name, in order of execution. Layers that only make a gate, as in
            squeeze-and-excitation, are left out.
        output_layer: The layer whose channels are the classes.
    """

    program: Program
    steps: dict[fx.Node, Step]
    sites: dict[str, Site]
    output_layer: str

    def groups(self, name: str) -> int:
        """Into how many groups a layer's convolution is divided; 1 for other layers."""
        return _groups(self.sites[name].node)


@lru_cache(maxsize=8)
def wire(program: Program) -> Wiring:
    """Find out what each operation of a program does to channels.

    Raises:
        WiringError: An operation on the way to the logits is not understood; it is named.
    """
    return _Wirer(program).wire()


class _Wirer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.depending = depending(program)
        self.steps: dict[fx.Node, Step] = {program.image: Step(Kind.IMAGE, ())}
        self.sites: dict[str, Site] = {}
        # Tensors of the image through which channels cannot be followed, and the operation that
        # is the reason. They may be gates, nothing else.
        self.opaque: dict[fx.Node, fx.Node] = {}
        self.attends = any(_attends(n, self.depending) for n in program.module.graph.nodes)

    def wire(self) -> Wiring:
        for n in self.program.module.graph.nodes:
            if n.op == "call_function" and n in self.depending:
                self._step(n)
        output = self.program.output
        if output in self.opaque:
            raise not_understood(self.opaque[output])
        if output not in self.steps:
            raise WiringError("the logits do not depend on the image in a way that can be followed")
        owners = {self.steps[n].owner for n in self._back(output)}
        owner = next(iter(owners)) if len(owners) == 1 else None
        if owner is None:
            raise WiringError("the logits do not come from one layer, so they have no circuit")
        way = self._way(output)
        return Wiring(
            self.program,
            steps={n: step for n, step in self.steps.items() if n in way},
            sites={name: site for name, site in self.sites.items() if site.node in way},
            output_layer=owner,
        )

    def _way(self, output: fx.Node) -> set[fx.Node]:
        """The operations between image and logits, without those that only make gates."""
        found, todo = {output}, [output]
        while todo:
            new = set(self.steps[todo.pop()].sources) - found
            found |= new
            todo += new
        return found

    def _back(self, output: fx.Node) -> list[fx.Node]:
        """The nearest operations whose result holds one layer's own channels."""
        found, todo = [], [output]
        while todo:
            n = todo.pop()
            step = self.steps[n]
            if step.kind is Kind.REINDEX and operation(n) in SELECTING:
                raise WiringError("the logits are a part of a layer's channels, or out of order")
            if step.owner is None and step.kind in (
                *(Kind.SAME, Kind.REINDEX, Kind.AVERAGE, Kind.MAX_POOL, Kind.GATE),
                *(Kind.SUM, Kind.JOIN, Kind.BATCH_NORM, Kind.PRODUCT, Kind.SCALE),
            ):
                todo += step.sources
            else:
                found.append(n)
        return found

    def _step(self, n: fx.Node) -> None:
        tensors = [a for a in flat((*n.args, *n.kwargs.values())) if isinstance(a, fx.Node)]
        images = [a for a in tensors if a in self.depending]
        hidden = [a for a in images if a in self.opaque]
        name = operation(n)
        if name in PRODUCTS | {"scaled_dot_product_attention"} and len(images) > 1:
            self._product_of_matrices(n, name)
        elif name in ("mul", "div") and len(images) > 1:
            self._gated(n, images, name)
        elif hidden:
            # Also a sum of what is followed and what is not: nobody could tell the parts apart.
            self.opaque[n] = self.opaque[hidden[0]]
        elif (kind := self._kind(n, name)) is None:
            self.opaque[n] = n
        elif kind in (Kind.LAYER, Kind.ATTENTION):
            self._layer(n, kind, tuple(images))
        else:
            self._pass(n, kind, tuple(images))

    def _kind(self, n: fx.Node, name: str) -> Kind | None:
        if self._unusual(n, name):
            return None
        if name == "conv2d":
            return Kind.DEPTHWISE if _is_depthwise(n) else Kind.LAYER
        if name == "linear" or (name in ("matmul", "mm") and n.args[0] in self.depending):
            projects = _leads(n, lambda user: _attends(user, self.depending)) or self._writes(n)
            return Kind.PROJECTION if projects else Kind.LAYER
        return SIMPLE.get(name)

    def _unusual(self, n: fx.Node, name: str) -> bool:
        """Whether a known operation is used in a way that is not understood."""
        if name in ("conv2d", "linear"):  # the image makes the weights, or the groups
            dynamic = isinstance(_option(n, 6, "groups", 1), fx.Node)
            return n.args[1] in self.depending or dynamic
        if name == "batch_norm":  # without running statistics its scale is the image's
            return n.args[3] is None or bool(n.args[5])
        if name == "instance_norm":  # with running statistics it is a batch norm
            return not n.args[5]
        if name in ("pad", "constant_pad_nd"):
            return bool(_option(n, 3 if name == "pad" else 2, "value", None))
        return name == "div" and n.args[0] not in self.depending

    def _layer(self, n: fx.Node, kind: Kind, sources: tuple[fx.Node, ...]) -> None:
        name = self._name(n, kind)
        if name in self.sites:
            raise WiringError(f"layer `{name}` is used twice, which the readout cannot tell apart")
        self.sites[name] = Site(node=n, activation=n)
        self.steps[n] = Step(kind, sources, name)

    def _name(self, n: fx.Node, kind: Kind) -> str:
        if kind is Kind.ATTENTION:
            return where(n) or "attention"
        weight: Any = n.args[1]
        while isinstance(weight, fx.Node) and weight.op == "call_function":
            weight = next(iter(weight.all_input_nodes), None)
        parameter = self.program.inputs.get(weight.name) if isinstance(weight, fx.Node) else None
        return (parameter or where(n) or n.name).removesuffix(".weight")

    def _pass(self, n: fx.Node, kind: Kind, sources: tuple[fx.Node, ...]) -> None:
        """An operation that keeps channels apart.

        Where it is the only one that reads a layer's channels, its result is still the layer's.
        """
        owner = None
        if len(sources) == 1 and kind in (Kind.BATCH_NORM, Kind.GATE, Kind.SAME, Kind.NORM):
            (source,) = sources
            alone = len(source.users) == 1 and operation(n) != "layer_norm"
            if alone and self.steps[source].owner is not None:
                owner = self.steps[source].owner
                assert owner is not None
                site = self.sites[owner]
                site.activation = n
                if kind is Kind.BATCH_NORM and not site.rectified:
                    site.norms.append(n)
                site.rectified |= kind is Kind.GATE
        self.steps[n] = Step(kind, sources, owner)

    def _gated(self, n: fx.Node, images: list[fx.Node], name: str) -> None:
        """A product of two tensors of the image: the larger one passes, the other is its gate."""
        # A gate is the smaller one, before it is spread over the map. On maps of one pixel both
        # have the same size; then the gate is the one that comes from a sigmoid.
        origins = {a: _before_spreading(a) for a in images}
        rank = {
            a: (
                a not in self.opaque,
                _size(origins[a]),
                operation(origins[a]) not in ("sigmoid", "hardsigmoid"),
                place,
            )
            for place, a in enumerate(images)
        }
        passing = max(images, key=lambda a: rank[a]) if name == "mul" else images[0]
        if passing in self.opaque:
            self.opaque[n] = self.opaque[passing]
        else:
            self._pass(n, Kind.PRODUCT, (passing,))

    def _product_of_matrices(self, n: fx.Node, name: str) -> None:
        if name == "scaled_dot_product_attention":
            values = [n.args[2]]
        else:
            values = [a for a in n.all_input_nodes if a in self.steps]
        if len(values) == 1 and values[0] in self.steps:
            self._layer(n, Kind.ATTENTION, (values[0],))  # type: ignore[arg-type]
        else:
            self.opaque[n] = n

    def _writes(self, n: fx.Node) -> bool:
        """Whether a linear layer writes one layer's channels to a transformer's stream."""
        if not self.attends:
            return False
        source: Any = n.args[0]
        while source in self.steps and self.steps[source].owner is None:
            step = self.steps[source]
            if step.kind not in (Kind.SAME, Kind.REINDEX):
                return False
            (source,) = step.sources
        if source not in self.steps or self.sites[self.steps[source].owner or ""].node is n:
            return False
        return _leads(n, lambda user: operation(user) == "add", NORMALISING)


def not_understood(n: fx.Node) -> WiringError:
    """The error that names an operation."""
    place = where(n)
    return WiringError(
        f"the readout cannot follow channels through `{operation(n)}`"
        + (f" in `{place}`" if place else "")
        + "; it knows convolutions, linear layers, attention, norms, elementwise "
        "nonlinearities, pooling, sums, gates, concatenations and changes of shape"
    )


def _attends(n: fx.Node, images: Collection[fx.Node]) -> bool:
    if n.op != "call_function":
        return False
    name = operation(n)
    return name == "scaled_dot_product_attention" or (
        name in PRODUCTS and sum(a in images for a in n.all_input_nodes) > 1
    )


def _leads(n: fx.Node, goal: Callable[[fx.Node], bool], beside: Collection[str] = ()) -> bool:
    """Whether a result gets somewhere with no more than its shape or its scale changed."""
    passing = {*SAME, *REINDEXING, *beside, "mul", "div"}
    todo, seen = list(n.users), set()
    while todo:
        user = todo.pop()
        if user in seen:
            continue
        seen.add(user)
        if goal(user):
            return True
        if user.op == "call_function" and operation(user) in passing:
            todo += user.users
    return False


def _groups(n: fx.Node) -> int:
    return int(_option(n, 6, "groups", 1)) if operation(n) == "conv2d" else 1


def _option(n: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument that may be given by its place, by its name or not at all."""
    return n.kwargs.get(name, n.args[place] if len(n.args) > place else default)


def _is_depthwise(n: fx.Node) -> bool:
    arguments: Any = n.args
    weight = arguments[1].meta["val"]
    return bool(_groups(n) == len(weight) > 1 and weight.shape[1] == 1)


def _before_spreading(n: fx.Node) -> fx.Node:
    """What a tensor was before its shape was matched to another's."""
    while n.op == "call_function" and operation(n) in SPREADING:
        n = n.all_input_nodes[0]
    return n


def _size(n: fx.Node) -> int:
    value = n.meta["val"]
    assert isinstance(value, Tensor)
    size = 1
    for side in value.shape:
        size *= side if isinstance(side, int) else side.node.hint
    return size
