import pytest
import torch
from torch import nn

from expcam.classifier.bfloat16 import InBfloat16, computes_in_bfloat16
from expcam.classifier.frozen import frozen


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


@pytest.mark.parametrize("name", ["vit_b_16", "mobilenet_v3_small", "densenet121"])
def test_it_gives_what_autocast_gives(name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    module = models.get_model(name, weights=None, num_classes=7)
    x = torch.randn(2, 3, 224, 224)
    with frozen(module):
        fast = InBfloat16(module)
        with torch.autocast("cpu", torch.bfloat16):
            expected = module(x).float()
        seen = x.clone().requires_grad_()
        output = fast(seen)
        output.sum().backward()
    assert torch.allclose(output, expected, atol=1e-2 * float(expected.abs().max()))
    assert seen.grad is not None
    assert torch.isfinite(seen.grad).all()
