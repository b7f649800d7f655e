import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.circuits.program import Runner, capture, operation
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "swin_v2_t"])
def test_a_program_gives_what_its_module_gives(name: str) -> None:
    module = expcam.load_classifier(name, None, device="cpu").module
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with frozen(module), torch.no_grad():
        program = capture(module, x)
        # Any batch, though it was traced on one of two.
        for batch in (1, 3):
            assert torch.equal(Runner(program)(module, x[:batch]), module(x[:batch]))
        assert capture(module, x[:1]) is program


class InPlace(nn.Module):
    """Overwrites a tensor that is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        a.relu_()
        a += 1
        logits: Tensor = self.fc((a * 2).mean((2, 3)))
        return logits


def test_what_overwrites_makes_a_new_tensor() -> None:
    module, x = InPlace().eval(), torch.randn(2, 3, 4, 4)
    program = capture(module, x)
    seen = {}
    watching = {
        n: lambda result, n=n: seen.setdefault(n, (result, result.clone()))[0]
        for n in program.module.graph.nodes
        if n.op == "call_function" and operation(n) in ("conv2d", "relu", "add", "mul")
    }
    with torch.no_grad():
        assert torch.equal(Runner(program, watching)(module, x), module(x))
    assert len(seen) == 4
    assert all(torch.equal(result, before) for result, before in seen.values())


def test_a_module_that_was_changed_is_traced_anew() -> None:
    module, x = InPlace().eval(), torch.zeros(1, 3, 4, 4)
    before = capture(module, x)
    module.fc = nn.Linear(4, 7)
    after = capture(module, x)
    assert after is not before
    with torch.no_grad():
        assert Runner(after)(module, x).shape == (1, 7)
        # New numbers in the same places need no new program.
        module.fc.weight.mul_(2)
        assert capture(module, x) is after
        assert torch.equal(Runner(after)(module, x), module(x))


class Sliced(InPlace):
    """Writes into a part of a tensor, which a trace cannot tell from a tensor of its own."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x).clone()
        a[:, :2] = a[:, 2:] * 3
        logits: Tensor = self.fc(a.mean((2, 3)))
        return logits


class OneByOne(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(self.conv(each).mean((1, 2))) for each in x])


@pytest.mark.parametrize("kind", [Sliced, OneByOne])
def test_a_program_that_would_do_something_else_is_refused(kind: type[nn.Module]) -> None:
    module = kind().eval()
    with pytest.raises(WiringError, match=r"traced|overwrites a view"):
        capture(module, torch.zeros(1, 3, 4, 4))


def test_options_hooks_and_sizes_belong_to_a_program() -> None:
    module, x = InPlace().eval(), torch.rand(1, 3, 4, 4)
    first = capture(module, x)
    assert capture(module, torch.zeros(1, 3, 8, 8)) is not first
    assert capture(module, x) is first
    module.conv.stride = (2, 2)
    second = capture(module, x)
    assert second is not first
    module.conv.stride = (1, 1)
    assert capture(module, x) is first
    handle = module.conv.register_forward_hook(lambda _m, _i, out: out * 2)
    with torch.no_grad():
        assert torch.equal(Runner(capture(module, x))(module, x), module(x))
    handle.remove()


class Branches(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1 if x.sum() > 0 else x)


def test_what_cannot_be_traced_is_said_in_a_line() -> None:
    with pytest.raises(WiringError, match="the classifier cannot be traced: ") as caught:
        capture(Branches().eval(), torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(caught.value)
