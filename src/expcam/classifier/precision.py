"""Faster arithmetic: bfloat16 where a device is faster with it, and no denormal numbers."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers (below 1e-38) as 0 on the CPU inside the block.

    Masked activations and their gradients are full of them, and a CPU is slow on them. The former
    state is put back at the end, also after an exception. A CPU that cannot do this goes on as
    before.

    The state belongs to a thread. The block sets it for the thread that enters it. Torch's worker
    threads inherit it when they are started, at the first large operation of the process: workers
    that run already keep their own state, and workers started inside keep this one.
    """
    before = _flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushes_denormals() -> bool:
    """Whether this thread treats denormal numbers as 0: torch cannot say, so one is made."""
    normal = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32, device="cpu")
    return bool(normal * 0.5 == 0)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has bfloat16 arithmetic, which halves the time of a training step."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # An older torch does not say.
    features = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


class InBfloat16(nn.Module):
    """A frozen module that is run in bfloat16 where autocast thinks it safe.

    The weights of its convolutions and linear layers, which autocast would cast at every call,
    are cast once.

    Args:
        module: In evaluation mode.
        folded: Whether batch norms may be folded into the convolutions before them, which takes a
            copy of the module. Without it all but the weights is the module's own, its hooks too.
    """

    def __init__(self, module: nn.Module, *, folded: bool = False) -> None:
        super().__init__()
        if folded:
            module = without_batch_norms(module)
        self.module = module
        self._device_type = next((each.device.type for each in module.parameters()), "cpu")
        weights = {
            f"{name}.{kind}" if name else kind: weight
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
            for kind, weight in layer.named_parameters(recurse=False)
        }
        # Tied weights stay one tensor.
        cast = {id(each): each.detach().to(torch.bfloat16) for each in weights.values()}
        self._cast = {name: cast[id(each)] for name, each in weights.items()}

    def forward(self, x: Tensor) -> Any:
        """The module's output on ``x``; a tensor is given in float32."""
        exceptions = _SlowInBfloat16() if self._device_type == "cpu" else nullcontext()
        with torch.autocast(self._device_type, torch.bfloat16), exceptions:
            output = functional_call(self.module, self._cast, (x,))
        return output.float() if isinstance(output, Tensor) else output


class _SlowInBfloat16(TorchFunctionMode):
    """Runs depthwise convolutions with a stride in float32.

    Torch has no fast way back through them in bfloat16 on a CPU: on a network of the MobileNet
    family four of them take three quarters of a training step.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d or not _is_strided_depthwise(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_in_float32, args), **{k: _in_float32(v) for k, v in kwargs.items()})


def _is_strided_depthwise(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: int = 1,
) -> bool:
    """Whether these are the arguments of a depthwise convolution with a stride."""
    strides = (stride,) if isinstance(stride, int) else stride
    return groups == input.shape[1] > 1 and max(strides) > 1


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


class _Layers(fx.Tracer):
    """Goes into modules down to convolutions and batch norms, be they subclasses of torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called as it is."""
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def without_batch_norms(module: nn.Module) -> nn.Module:
    """A module in evaluation mode with its batch norms folded into the convolutions before them.

    The module itself where it has none, where hooks may look at or change what is in between, or
    where `torch.fx` cannot tell what it computes: what it returns is the same up to rounding.
    """
    parts = list(module.modules())
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in parts)
    if hooked or not any(isinstance(each, nn.BatchNorm2d) for each in parts):
        return module
    own = copy.deepcopy(module)
    if not fold_batch_norms(own):
        return module
    for parameter in own.parameters():
        parameter.requires_grad_(False)
    return own.to(memory_format=torch.channels_last)


def fold_batch_norms(module: nn.Module) -> bool:
    """Fold a module's batch norms into the convolutions before them, in the module itself.

    Its parts keep their names. Returns whether there was anything to fold.
    """
    try:
        graph = _Layers().trace(module)
    except Exception:  # whatever a module does that cannot be traced
        return False
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    folded = [_fold(module, node, calls) for node in graph.nodes]
    return any(folded)


def _fold(module: nn.Module, node: fx.Node, calls: Counter[Any]) -> bool:
    """Fold a batch norm into the convolution before it; whether ``node`` calls such a batch norm.

    Neither may be called twice, nor the convolution's output be used elsewhere.
    """
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return False
    if calls[node.target] != 1 or calls[before.target] != 1:
        return False
    norm_name, name = str(node.target), str(before.target)
    norm, convolution = module.get_submodule(norm_name), module.get_submodule(name)
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(convolution, nn.Conv2d):
        return False
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or norm.running_mean is None:
        return False
    after = () if type(norm) is nn.BatchNorm2d else ("drop", "act")  # of timm's
    rest = nn.Sequential(*(norm.get_submodule(each) for each in after))
    module.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
    module.set_submodule(norm_name, rest)
    return True
