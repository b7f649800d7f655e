"""Run a traced classifier once and record what the readout needs of each layer."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from expcam.circuits.flows import (
    INPUT,
    Flow,
    concatenated,
    depthwise,
    flattened,
    gated,
    mapped,
    max_pooled,
    scaled,
    whole,
)
from expcam.errors import ClassifierError

ELEMENTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
)
ELEMENTWISE_NAMES = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh"),
}
IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
IDENTITY_NAMES = {"dropout", "dropout2d", "stochastic_depth", "contiguous", "clone"}
LINEAR_POOLS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
LINEAR_POOL_NAMES = {"avg_pool2d", "adaptive_avg_pool2d"}
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a channel-mixing layer reads from one source layer, reduced over space.

    Attributes:
        source: Name of the source layer.
        channels: Indices of its channels there, ``(n,)``.
        columns: Which input channels of the reading layer they are, ``(n,)``.
        scale: Absolute per-channel scale on the way, ``(n,)``.
        mean: Mean over the output positions of what each kernel position sees, ``(n, kernel)``.
    """

    source: str
    channels: Tensor
    columns: Tensor
    scale: Tensor
    mean: Tensor


@dataclass(kw_only=True)
class Layer:
    """A channel-mixing layer as it ran on one image.

    Attributes:
        name: As in ``named_modules()``.
        weight: ``(out, in / groups, kernel)``.
        groups: Groups of a grouped convolution.
        reads: What it read, by source.
        activation: Its output behind batch norm and nonlinearity, up to the first sum,
            concatenation or pooling; part of the autograd graph.
        scale: Signed per-channel scale between its weights and ``activation``, ``(out,)``.
        node: The node of the traced graph that gives ``activation``.
    """

    name: str
    weight: Tensor
    groups: int
    reads: list[Read]
    activation: Tensor
    scale: Tensor
    node: fx.Node


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A forward pass: layers in order of execution, the logits, and where the logits come from.

    Attributes:
        layers: By name.
        logits: ``(1, classes)``, part of the autograd graph.
        output_layer: The layer whose channels are the classes.
        traced: The module as it was traced, sharing its weights.
    """

    layers: dict[str, Layer]
    logits: Tensor
    output_layer: str
    traced: fx.GraphModule


def record(module: nn.Module, e: Tensor) -> Recording:
    """Run ``module`` on a normalised image and follow its channels.

    Args:
        module: In evaluation mode.
        e: Normalised image ``(1, 3, H, W)``.

    Raises:
        ClassifierError: The module cannot be traced, or does something to channels that is
            not understood; the message names the operation.
    """
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ClassifierError(
            f"the classifier cannot be traced by torch.fx, so it has no circuit here: {reason}"
        ) from error
    with _out_of_place(module), torch.enable_grad():
        recorder = _Recorder(traced)
        logits = recorder.run(e)
    output = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    flows = recorder.flows.get(output, [])
    sources = {flow.source for flow in flows} - {INPUT}
    if len(sources) != 1 or len(flows) != 1:
        raise ClassifierError("the logits do not come from one layer, so it has no circuit here")
    return Recording(
        layers=recorder.layers, logits=logits, output_layer=sources.pop(), traced=traced
    )


@contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Let no nonlinearity overwrite its input, which may be a recorded activation."""
    changed = [m for m in module.modules() if getattr(m, "inplace", False)]
    try:
        for each in changed:
            each.inplace = False  # type: ignore[assignment]
        yield
    finally:
        for each in changed:
            each.inplace = True  # type: ignore[assignment]


class _Recorder(fx.Interpreter):
    """Executes a traced module; keeps the flows of every tensor that has some."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        # Errors are one line; without this the interpreter adds a page to them.
        self.extra_traceback = False
        self.flows: dict[fx.Node, list[Flow]] = {}
        self.owner: dict[fx.Node, str] = {}
        self.layers: dict[str, Layer] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "placeholder":
            result = super().run_node(n)
            self.flows[n] = whole(INPUT, result.detach())
            return result
        if n.op == "call_function" and n.target in (operator.iadd, operator.imul):
            args, _ = self.fetch_args_kwargs_from_env(n)
            result = args[0] + args[1] if n.target is operator.iadd else args[0] * args[1]
        else:
            result = super().run_node(n)
        if n.op != "output" and isinstance(result, Tensor) and any(map(self._has_flows, n.args)):
            with torch.no_grad():
                self._follow(n, result)
        elif n.op != "output" and any(map(self._has_flows, _flat(n.args))):
            self._follow_parts(n, result)
        return result

    def _has_flows(self, argument: object) -> bool:
        return isinstance(argument, fx.Node) and argument in self.flows

    def _follow_parts(self, n: fx.Node, result: Any) -> None:
        """Operations on lists of tensors, and those that give no tensor."""
        if n.target in (torch.cat, torch.concat) and isinstance(result, Tensor):
            parts = n.args[0] if n.args else n.kwargs["tensors"]
            dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
            if dim not in (1, 1 - result.ndim):
                raise _unsupported(n)
            self.flows[n] = concatenated(
                [(self.flows.get(part, []), self.env[part].shape[1]) for part in parts]  # type: ignore[union-attr, index, arg-type]
            )
        elif any(isinstance(part, Tensor) for part in _flat((result,))):
            raise _unsupported(n)

    def _follow(self, n: fx.Node, result: Tensor) -> None:
        source = next(a for a in n.args if self._has_flows(a))
        assert isinstance(source, fx.Node)
        before, flows = self.env[source].detach(), self.flows[source]
        after = result.detach()
        target = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        name = _name(n)
        columns = any(flow.value.ndim == 3 for flow in flows)
        passes = isinstance(target, (nn.Linear, *IDENTITY_MODULES)) or name in IDENTITY_NAMES
        if (columns and not passes) or any(map(self._has_flows, n.kwargs.values())):
            raise _unsupported(n)

        if isinstance(target, nn.Conv2d | nn.Linear) and not _is_depthwise(target):
            self._mix(n, target, flows, result)
        elif isinstance(target, nn.Conv2d):
            self.flows[n] = depthwise(flows, target.weight, lambda v, w: _convolve(target, v, w))
        elif isinstance(target, nn.BatchNorm2d | nn.BatchNorm1d):
            scale = _batch_norm_scale(target)
            if self._own(n, source, result, scale):
                return
            self.flows[n] = scaled(flows, scale)
        elif isinstance(target, ELEMENTWISE_MODULES) or name in ELEMENTWISE_NAMES:
            if self._own(n, source, result, None):
                return
            self.flows[n] = gated(flows, before, after)
        elif isinstance(target, IDENTITY_MODULES) or name in IDENTITY_NAMES:
            self.flows[n] = flows
            if source in self.owner:
                self.owner[n] = self.owner[source]
        elif isinstance(target, nn.MaxPool2d):
            self.flows[n] = max_pooled(
                flows,
                before,
                kernel_size=target.kernel_size,
                stride=target.stride,
                padding=target.padding,
                dilation=target.dilation,
                ceil_mode=target.ceil_mode,
            )
        elif name == "max_pool2d":
            keywords = {key: value for key, value in n.kwargs.items() if key != "return_indices"}
            names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
            keywords |= dict(zip(names, n.args[1:], strict=False))
            self.flows[n] = max_pooled(flows, before, **keywords)
        elif isinstance(target, LINEAR_POOLS):
            self.flows[n] = mapped(flows, target)
        elif name in LINEAR_POOL_NAMES or (name == "mean" and _over_space(n, before)):
            self.flows[n] = mapped(flows, lambda v: self._again(n, source, v))
        elif isinstance(target, nn.Flatten) or name == "flatten":
            if after.ndim != 2:
                raise _unsupported(n)
            self.flows[n] = flattened(flows) if before.ndim > 2 else flows
        elif n.target in ADDITIONS and not n.kwargs:
            self.flows[n] = [f for a in n.args if self._has_flows(a) for f in self.flows[a]]  # type: ignore[index]
        elif n.target in PRODUCTS:
            self._gate_by_product(n)
        else:
            raise _unsupported(n)

    def _mix(
        self, n: fx.Node, target: nn.Conv2d | nn.Linear, flows: list[Flow], result: Tensor
    ) -> None:
        name = str(n.target)
        if name in self.layers:
            raise ClassifierError(f"layer `{name}` is used twice, which the readout cannot follow")
        if isinstance(target, nn.Linear) and result.ndim != 2:
            raise _unsupported(n)
        weight = target.weight.detach()
        channels = max(flow.span.stop for flow in flows)
        if isinstance(target, nn.Linear):
            weight = weight.view(weight.shape[0], channels, -1)
        reads = [
            Read(
                source=flow.source,
                channels=flow.channels,
                columns=torch.arange(flow.span.start, flow.span.stop),
                scale=flow.scale,
                mean=_kernel_means(target, flow.value),
            )
            for flow in flows
        ]
        self.layers[name] = Layer(
            name=name,
            weight=weight.flatten(2),
            groups=target.groups if isinstance(target, nn.Conv2d) else 1,
            reads=reads,
            activation=result,
            scale=torch.ones(len(weight), dtype=weight.dtype, device=weight.device),
            node=n,
        )
        self.owner[n] = name
        self.flows[n] = whole(name, result.detach())

    def _own(self, n: fx.Node, source: fx.Node, result: Tensor, scale: Tensor | None) -> bool:
        """Whether the result is still the layer's own activation; if so, note it as such."""
        if source not in self.owner or len(source.users) > 1:
            return False
        name = self.owner[n] = self.owner[source]
        layer = self.layers[name]
        layer.activation, layer.node = result, n
        if scale is not None:
            layer.scale = layer.scale * scale
        self.flows[n] = whole(name, result.detach())
        return True

    def _gate_by_product(self, n: fx.Node) -> None:
        """A value times a gate (squeeze-and-excitation): the larger tensor passes through."""
        values = [self.env[a].detach() if isinstance(a, fx.Node) else a for a in n.args]
        sizes = [v.numel() if isinstance(v, Tensor) else 0 for v in values]
        # On maps of one pixel both are as large; the gate is then written first.
        main = max(range(len(sizes)), key=lambda place: (sizes[place], place))
        if not self._has_flows(n.args[main]):
            raise _unsupported(n)
        gate: Any = values[1 - main]
        flows = self.flows[n.args[main]]  # type: ignore[index]
        value = self.env[n.args[main]]  # type: ignore[index]
        channels = value.shape[1]
        if not isinstance(gate, Tensor) or gate.numel() == 1:
            self.flows[n] = scaled(flows, value.new_full((channels,), float(gate)))
            return
        if gate.ndim == 3 and gate.shape == (channels, 1, 1):  # layer scale
            self.flows[n] = scaled(flows, gate.flatten())
            return
        if gate.ndim < 2 or gate.shape[1] not in (1, channels):
            raise _unsupported(n)
        if gate.shape[1] == 1:
            self.flows[n] = mapped(flows, lambda each: each * gate)
            return
        self.flows[n] = [replace(flow, value=flow.value * gate[:, flow.span]) for flow in flows]

    def _again(self, n: fx.Node, source: fx.Node, value: Tensor) -> Tensor:
        """Run a function or method node once more, on another tensor in place of its source."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        args = tuple(value if a is source else b for a, b in zip(n.args, args, strict=True))
        if n.op == "call_method":
            repeated: Tensor = getattr(args[0], str(n.target))(*args[1:], **kwargs)
            return repeated
        function: Callable[..., Tensor] = n.target  # type: ignore[assignment]
        return function(*args, **kwargs)


def _flat(arguments: Any) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, tuple | list):
            yield from _flat(argument)
        else:
            yield argument


def _name(n: fx.Node) -> str:
    if n.op == "call_method":
        return str(n.target)
    return str(getattr(n.target, "__name__", "")) if n.op == "call_function" else ""


def _unsupported(n: fx.Node) -> ClassifierError:
    return ClassifierError(
        f"the circuit readout does not understand `{n.format_node()}`; it follows convolutions, "
        "linear layers, batch norm, elementwise nonlinearities, pooling, sums, products with a "
        "gate and concatenations"
    )


def _over_space(n: fx.Node, before: Tensor) -> bool:
    dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
    wanted = {d % before.ndim for d in dims} if isinstance(dims, tuple | list) else set()
    return before.ndim == 4 and wanted == {2, 3}


def _is_depthwise(target: nn.Conv2d | nn.Linear) -> bool:
    return (
        isinstance(target, nn.Conv2d)
        and target.groups == target.in_channels == target.out_channels
        and target.groups > 1
    )


def _convolve(target: nn.Conv2d, value: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(
        _padded(target, value),
        weight,
        stride=target.stride,
        dilation=target.dilation,
        groups=len(weight),
    )


def _padded(target: nn.Conv2d, value: Tensor) -> Tensor:
    mode = "constant" if target.padding_mode == "zeros" else target.padding_mode
    return F.pad(value, target._reversed_padding_repeated_twice, mode=mode)


def _batch_norm_scale(target: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    if target.running_var is None:
        raise ClassifierError("a batch norm without running statistics has no fixed scale")
    scale = (target.running_var + target.eps).rsqrt()
    return scale if target.weight is None else scale * target.weight.detach()


def _kernel_means(target: nn.Conv2d | nn.Linear, value: Tensor) -> Tensor:
    """Mean over output positions of the input that each kernel position sees: ``(n, kernel)``."""
    if isinstance(target, nn.Linear):
        return value[0].reshape(value.shape[1], -1)
    padded = _padded(target, value)[0]
    (rows, columns), (step_y, step_x) = target.kernel_size, target.stride
    (gap_y, gap_x) = target.dilation
    height = (padded.shape[1] - gap_y * (rows - 1) - 1) // step_y + 1
    width = (padded.shape[2] - gap_x * (columns - 1) - 1) // step_x + 1
    means = [
        padded[
            :,
            y * gap_y : y * gap_y + step_y * (height - 1) + 1 : step_y,
            x * gap_x : x * gap_x + step_x * (width - 1) + 1 : step_x,
        ].mean((1, 2))
        for y in range(rows)
        for x in range(columns)
    ]
    return torch.stack(means, 1)
