"""Faster arithmetic: bfloat16 where a device is faster with it, and no denormal numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import symbolic_trace
from torch.fx.experimental.optimization import fuse


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

    def forward(self, x: Tensor) -> Tensor:
        """The module's output on ``x``, in float32."""
        with torch.autocast(self._device_type, torch.bfloat16):
            output: Tensor = functional_call(self.module, self._cast, (x,))
        return output.float()


def without_batch_norms(module: nn.Module) -> nn.Module:
    """A module in evaluation mode with its batch norms folded into the convolutions before them.

    The module itself where it has none, where hooks may look at or change what is in between, or
    where `torch.fx` cannot tell what it computes: what it returns is the same up to rounding.
    """
    parts = list(module.modules())
    hooked = any(each._forward_hooks or each._forward_pre_hooks for each in parts)
    if hooked or not any(isinstance(each, nn.BatchNorm2d) for each in parts):
        return module
    try:
        traced = symbolic_trace(module)
    except Exception:  # whatever a module does that cannot be traced
        return module
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    convolutions = [name for name in called if isinstance(traced.get_submodule(name), nn.Conv2d)]
    if len(set(convolutions)) < len(convolutions):
        return module  # one that is called twice has two batch norms behind it
    fused: nn.Module = fuse(traced)
    for parameter in fused.parameters():
        parameter.requires_grad_(False)
    return fused.to(memory_format=torch.channels_last)
