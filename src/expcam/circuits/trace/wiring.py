"""What each operation of a classifier does to channels, from its graph alone.

Some operations mix channels: convolutions, linear layers, attention. They are the layers of a
circuit. All others pass channels on, or, as in squeeze-and-excitation, gate those that pass.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import Tensor, fx

from expcam.circuits.trace import layout
from expcam.circuits.trace.graph import SOFTMAX, depending, flat, operation, where
from expcam.circuits.trace.kinds import (
    NORMALISING,
    REDUCING,
    REINDEXING,
    SAME,
    SCORING,
    SELECTING,
    SIMPLE,
    SPREADING,
    Kind,
    attends,
    groups_of,
    is_depthwise,
    is_unusual,
)
from expcam.circuits.trace.layout import Labels
from expcam.circuits.trace.program import Program
from expcam.errors import WiringError

LOGITS = "logits"
"""The name of the classes where no layer's own channels are."""
AGAIN = "@"
"""Stands before the number of a further use of a layer: ``fc@2``."""


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
        axis: The dimension of its activation that its channels are along.
        features: Of attention the dimension along which a head has its features.
        norms: The batch norms behind it that come before the nonlinearity.
        rectified: Whether a nonlinearity has followed it.
    """

    node: fx.Node
    activation: fx.Node
    axis: int
    features: int | None = None
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
        logits: The operation that gives the logits; a softmax behind it is left out.
    """

    program: Program
    steps: dict[fx.Node, Step]
    sites: dict[str, Site]
    output_layer: str
    logits: fx.Node

    def groups(self, name: str) -> int:
        """Into how many groups a layer's convolution is divided; 1 for other layers."""
        return groups_of(self.sites[name].node)


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
        self.depending = depending(program.module.graph, program.image)
        self.steps: dict[fx.Node, Step] = {program.image: Step(Kind.IMAGE, ())}
        self.labels: dict[fx.Node, Labels] = {program.image: layout.fresh(program.image, 1)}
        self.sites: dict[str, Site] = {}
        # Tensors of the image through which channels cannot be followed, and the operation that
        # is the reason. They may be gates, nothing else.
        self.opaque: dict[fx.Node, fx.Node] = {}
        self.attends = any(attends(n, self.depending) for n in program.module.graph.nodes)

    def wire(self) -> Wiring:
        logits = self.program.logits
        for n in self.program.module.graph.nodes:
            if n.op == "call_function" and n in self.depending:
                self._step(n)
            if n is logits:
                break
        if logits in self.opaque:
            raise not_understood(self.opaque[logits])
        if logits not in self.steps:
            raise WiringError("the logits do not depend on the image in a way that can be followed")
        owner = self._owner(logits)
        if owner is None:
            owner = LOGITS
            self.sites[owner] = Site(node=logits, activation=logits, axis=1)
            self.steps[logits] = Step(Kind.LOGITS, self.steps[logits].sources, owner)
        way = self._way(logits)
        return Wiring(
            self.program,
            steps={n: step for n, step in self.steps.items() if n in way},
            sites={name: site for name, site in self.sites.items() if site.node in way},
            output_layer=owner,
            logits=logits,
        )

    def _way(self, output: fx.Node) -> set[fx.Node]:
        """The operations between image and logits, without those that only make gates."""
        found, todo = {output}, [output]
        while todo:
            new = set(self.steps[todo.pop()].sources) - found
            found |= new
            todo += new
        return found

    def _owner(self, logits: fx.Node) -> str | None:
        """The layer whose own channels, one to one, are the classes."""
        owners, todo = set(), [logits]
        while todo:
            n = todo.pop()
            step = self.steps[n]
            if step.kind is Kind.REINDEX and operation(n) in SELECTING:
                return None
            if step.owner is None and step.kind in (
                *(Kind.SAME, Kind.REINDEX, Kind.AVERAGE, Kind.MAX_POOL, Kind.GATE),
                *(Kind.SUM, Kind.JOIN, Kind.BATCH_NORM, Kind.PRODUCT, Kind.SCALE),
            ):
                todo += step.sources
            else:
                owners.add(step.owner)
        return owners.pop() if len(owners) == 1 else None

    def _step(self, n: fx.Node) -> None:
        tensors = [a for a in flat((*n.args, *n.kwargs.values())) if isinstance(a, fx.Node)]
        images = [a for a in tensors if a in self.depending]
        hidden = [a for a in images if a in self.opaque]
        name = operation(n)
        if attends(n, self.depending):
            self._product_of_matrices(n, name)
        elif name in ("mul", "div") and len(images) > 1:
            self._gated(n, images, name)
        elif hidden:
            # Also a sum of what is followed and what is not: nobody could tell the parts apart.
            self.opaque[n] = self.opaque[hidden[0]]
        elif (kind := self._kind(n, name)) is None:
            self.opaque[n] = n
        elif kind is Kind.LAYER:
            self._layer(n, kind, tuple(images))
        else:  # of a second tensor a change of shape takes the shape
            self._pass(n, kind, tuple(images[:1] if kind is Kind.REINDEX else images))

    def _kind(self, n: fx.Node, name: str) -> Kind | None:
        if is_unusual(n, self.depending):
            return None
        if name == "conv2d":
            return Kind.DEPTHWISE if is_depthwise(n) else Kind.LAYER
        if name == "linear" or (name in ("matmul", "mm") and n.args[0] in self.depending):
            axes = layout.axes_of(self.labels[n.args[0]])  # type: ignore[index]
            if axes and len(layout.shape_of(n)) - 1 not in axes:
                return Kind.SPATIAL
            projects = _leads(n, lambda user: attends(user, self.depending)) or self._writes(n)
            return Kind.PROJECTION if projects else Kind.LAYER
        return SIMPLE.get(name)

    def _layer(
        self, n: fx.Node, kind: Kind, sources: tuple[fx.Node, ...], features: int | None = None
    ) -> None:
        name = self._name(n, kind)
        axis = 1 if operation(n) == "conv2d" else len(layout.shape_of(n)) - 1
        if kind is Kind.ATTENTION:
            axis, features = self._heads(n, sources[0])
        self.sites[name] = Site(node=n, activation=n, axis=axis, features=features)
        self._add(n, Step(kind, sources, name))

    def _heads(self, n: fx.Node, values: fx.Node) -> tuple[int, int]:
        """Along which dimensions attention has its heads, and each head its features."""
        ndim = len(layout.shape_of(n))
        axes = layout.axes_of(layout.attended(n, values, self.labels[values])) or []
        features = max((d for d in axes if d >= ndim - 2), default=ndim - 1)
        # The last two dimensions are of each head's own matrices.
        return max((d for d in axes if d < ndim - 2), default=max(ndim - 3, 0)), features

    def _name(self, n: fx.Node, kind: Kind) -> str:
        """As the user knows it; further uses of one layer are told apart by a number."""
        weight: Any = n.args[1]
        while isinstance(weight, fx.Node) and weight.op == "call_function":
            weight = next(iter(weight.all_input_nodes), None)
        parameter = self.program.inputs.get(weight.name) if isinstance(weight, fx.Node) else None
        own = _as_known(parameter or "").removesuffix(".weight")
        # Of layers that share a weight each has the name of its module.
        shared = not f"{own}.".startswith(f"{where(n)}.") and not where(n).startswith(f"{own}.")
        name = where(n) if kind is Kind.ATTENTION or (shared and where(n)) else own
        name = name or where(n) or ("attention" if kind is Kind.ATTENTION else n.name)
        return use_of(name, 1 + sum(known.partition(AGAIN)[0] == name for known in self.sites))

    def _pass(self, n: fx.Node, kind: Kind, sources: tuple[fx.Node, ...]) -> None:
        """An operation that keeps channels apart.

        Where it is the only one that reads a layer's channels, its result is still the layer's.
        """
        owner = None
        if len(sources) == 1 and kind in (Kind.BATCH_NORM, Kind.GATE, Kind.SAME, Kind.NORM):
            (source,) = sources
            alone = len(source.users) == 1 and operation(n) not in ("layer_norm", "rms_norm")
            if alone and self.steps[source].owner is not None:
                owner = self.steps[source].owner
                assert owner is not None
                site = self.sites[owner]
                site.activation = n
                if kind is Kind.BATCH_NORM and not site.rectified:
                    site.norms.append(n)
                site.rectified |= kind is Kind.GATE
        self._add(n, Step(kind, sources, owner))

    def _add(self, n: fx.Node, step: Step) -> None:
        self.steps[n] = step
        self.labels[n] = self._labels(n, step)

    def _labels(self, n: fx.Node, step: Step) -> Labels:
        source = step.sources[0]
        labels = self.labels[source]
        match step.kind:
            case Kind.LAYER | Kind.PROJECTION:
                found: Labels = layout.fresh(n, 1 if operation(n) == "conv2d" else -1)
            case Kind.ATTENTION:
                found = layout.attended(n, source, labels)
            case Kind.SAME:
                found = labels
            case _ if operation(n) in ("im2col", "col2im"):
                found = layout.patched(n, labels)
            case Kind.REINDEX:
                found = layout.moved(n, source, labels)
            case Kind.JOIN:
                found = layout.joined(n, self.labels)
            case Kind.SUM:
                known = [self.labels[each] for each in step.sources]
                widest = max(known, key=lambda each: len(layout.axes_of(each) or []))
                found = layout.kept_apart(n, widest)
            case _ if operation(n) in REDUCING:
                found = layout.reduced(n, source, labels)
            case _:
                found = layout.kept_apart(n, labels)
        return found

    def _gated(self, n: fx.Node, images: list[fx.Node], name: str) -> None:
        """A product of two tensors of the image: the larger one passes, the other is its gate."""
        # A gate has fewer channels, or fewer numbers before it is spread over the map. On maps of
        # one pixel both have the same size; then the gate is the one that comes from a sigmoid.
        origins = {a: _before_spreading(a) for a in images}
        rank = {
            a: (
                a not in self.opaque,
                layout.count(self.labels.get(a)),
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
        """Attention: the values are followed, by which they are weighed is held fixed."""
        if name == "scaled_dot_product_attention":
            values: list[Any] = [n.args[2]]
        else:
            values = [a for a in n.all_input_nodes if a in self.depending]
        values = [a for a in values if a in self.steps]
        if not values or _leads(n, lambda user: operation(user) in SOFTMAX, SCORING):
            self.opaque[n] = n
            return
        # Of two that are followed the weights are those with more nonlinearities behind them.
        passing = min(reversed(values), key=self._nonlinearities)
        self._layer(n, Kind.ATTENTION, (passing,))

    def _nonlinearities(self, n: fx.Node) -> int:
        """How many there are between a tensor and the layer or projection that it comes from."""
        found = 0
        while self.steps[n].kind not in (Kind.LAYER, Kind.PROJECTION, Kind.ATTENTION, Kind.IMAGE):
            found += self.steps[n].kind is Kind.GATE
            n = self.steps[n].sources[0]
        return found

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


def _as_known(parameter: str) -> str:
    """The name of a weight that is made from others: a norm and a direction, a mask."""
    parameter = re.sub(r"parametrizations\.(\w+)\..*$", r"\1", parameter)
    return re.sub(r"\bweight_(g|v|orig|mask)$", "weight", parameter)


def use_of(name: str, number: int) -> str:
    """The name of a layer at one of its uses: ``fc`` at the first, ``fc@2`` at the second."""
    return name if number == 1 else f"{name}{AGAIN}{number}"


def not_understood(n: fx.Node) -> WiringError:
    """The error that names an operation."""
    place = where(n)
    return WiringError(
        f"the readout cannot follow channels through `{operation(n)}`"
        + (f" in `{place}`" if place else "")
        + "; it knows convolutions, linear layers, attention, norms, elementwise "
        "nonlinearities, pooling, sums, gates, concatenations and changes of shape"
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
