from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models import VisionTransformer

from expcam.classifier.frozen import frozen
from expcam.classifier.precision import (
    InBfloat16,
    computes_in_bfloat16,
    flushed_denormals,
    without_batch_norms,
)


def flushed() -> bool:
    """Whether a number below the smallest normal one becomes 0."""
    return float(torch.full((4,), 2.0**-126).mul(0.25).sum()) == 0


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot")
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_inside_the_block_alone(before: bool) -> None:
    def interrupted() -> None:
        with flushed_denormals(), flushed_denormals():
            assert flushed()
            raise KeyboardInterrupt

    torch.set_flush_denormal(before)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert flushed() is before
    finally:
        torch.set_flush_denormal(False)


def test_which_cpus_compute_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for features, expected in [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"avx512_f": True}, False),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=features: f, raising=False)
        assert computes_in_bfloat16(cpu) is expected
    assert not computes_in_bfloat16(torch.device("mps"))


def test_weights_are_rounded_and_the_module_is_left_alone() -> None:
    # bfloat16 has 8 significant bits: 1 + 1/256 rounds to 1.
    linear = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        linear.weight.fill_(1 + 1 / 256)
    heard: list[torch.Tensor] = []
    linear.register_forward_hook(lambda _module, _inputs, output: heard.append(output))
    with frozen(linear):
        output = InBfloat16(linear)(torch.ones(1, 1))
    assert heard[0].dtype == torch.bfloat16
    assert output.dtype == torch.float32
    assert float(heard[0]) == float(output) == 1.0
    assert linear.weight.item() == 1 + 1 / 256
    assert linear.weight.requires_grad


def test_tied_weights() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    module = nn.Sequential(first, nn.ReLU(), second).eval()
    x = torch.rand(2, 4)
    with torch.no_grad():
        assert torch.allclose(InBfloat16(module)(x), module(x), atol=0.05)


def test_depthwise_convolutions_with_a_stride_stay_in_float32() -> None:
    # 1 + 1/256 is no number in bfloat16; each layer passes it on.
    strides = {"depthwise": 2, "plain": 2, "unstrided": 1}
    for kind, stride in strides.items():
        groups = 1 if kind == "plain" else 2
        layer = nn.Conv2d(2, 2, 1, stride=stride, groups=groups, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(2)[:, : 2 // groups, None, None] if groups == 1 else 1)
        with frozen(layer):
            output = InBfloat16(layer)(torch.full((1, 2, 4, 4), 1 + 1 / 256))
        assert (float(output.max()) == 1 + 1 / 256) is (kind == "depthwise")


def small_vit(num_classes: int) -> nn.Module:
    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=num_classes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "side"),
    [(small_vit, 32), (models.mobilenet_v3_small, 96), (models.densenet121, 96)],
)
def test_it_gives_what_autocast_gives(build: Callable[..., nn.Module], side: int) -> None:
    torch.manual_seed(0)
    module = build(num_classes=7)
    x = torch.randn(2, 3, side, side)
    with frozen(module):
        fast = InBfloat16(module)
        with torch.autocast("cpu", torch.bfloat16):
            expected = module(x).float()
        seen = x.clone().requires_grad_()
        output = fast(seen)
        output.sum().backward()
    assert torch.allclose(output, expected, atol=2e-2 * float(expected.abs().max()))
    assert seen.grad is not None
    assert torch.isfinite(seen.grad).all()


def with_statistics(module: nn.Module) -> nn.Module:
    """Its batch norms as if they had been trained."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            assert each.running_mean is not None
            assert each.running_var is not None
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
    return module


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in module.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    # Those of a densely connected network come before what they would be folded into.
    [
        ("resnet18", 0),
        ("mobilenet_v3_small", 0),
        ("densenet121", 62),
        ("tf_efficientnet_lite0", 0),  # with timm's own layers
    ],
)
def test_batch_norms_are_folded_and_nothing_changes(name: str, left: int) -> None:
    torch.manual_seed(0)
    build = timm.create_model if name.startswith("tf_") else models.get_model
    module = with_statistics(build(name, num_classes=7).eval())
    x = torch.randn(2, 3, 96, 96)
    before = batch_norms(module)
    with frozen(module), torch.no_grad():
        folded = without_batch_norms(module)
        expected = module(x)
        assert torch.allclose(folded(x), expected, atol=1e-5 * float(expected.abs().max()))
        fast = InBfloat16(module, folded=True)(x)
    assert torch.allclose(fast, expected, atol=3e-2 * float(expected.abs().max()))
    assert not any(each.requires_grad for each in folded.parameters())
    assert batch_norms(folded) == left
    assert batch_norms(module) == before > left


def test_what_cannot_be_folded_is_the_module_itself() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.inner(x)
            return output if float(x.sum()) > 0 else -output

    class Twice(nn.Module):
        """One convolution with two batch norms behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 1)
            self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.second(self.convolution(self.first(self.convolution(x))))
            return output

    class Forked(nn.Module):
        """A convolution that is used without its batch norm as well."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.convolution(x)
            output: torch.Tensor = self.norm(x) + x
            return output

    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert without_batch_norms(hooked.eval()) is not hooked
    hooked[0].register_forward_hook(lambda _module, _inputs, output: output * 0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for module in (Branching(), Twice(), Forked(), hooked, plain):
        with frozen(module):
            assert without_batch_norms(module) is module
