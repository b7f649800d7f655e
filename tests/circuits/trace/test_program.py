import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.program import Branching, Call, Interpreter, capture, in_dtype_of
from expcam.circuits.trace.wiring import wire
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError


@pytest.mark.parametrize(
    "name",
    ["resnet18", "shufflenet_v2_x0_5", pytest.param("swin_v2_t", marks=pytest.mark.exhaustive)],
)
def test_a_program_gives_what_its_module_gives(name: str) -> None:
    module = expcam.load_classifier(name, None, device="cpu").module
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with frozen(module), torch.no_grad():
        program = capture(module, x)
        # Any batch, though it was traced on one of two.
        for batch in (1, 3):
            assert torch.equal(Interpreter(program)(module, x[:batch]), module(x[:batch]))
        assert capture(module, x[:1]) is program


def test_a_program_is_run_on_from_each_change() -> None:
    module = InPlace().eval()
    x = torch.randn(2, 3, 4, 4)
    with frozen(module), torch.no_grad():
        program = capture(module, x)
        changed = [n for n in program.module.graph.nodes if operation(n) in ("conv2d", "mul")]
        changes = [(n, lambda result, by=by: result * by) for n in changed[::-1] for by in (0, 3)]
        runs = dict(Branching(program).branches(program.arguments(module, x), changes))
        assert len(runs) == 4
        for number, (n, change) in enumerate(changes):
            alone = Interpreter(program, override={n: lambda call, of=change: of(call.run())})
            assert torch.equal(runs[number], alone(module, x))
        # In the order of the operations, not in that of the changes.
        assert list(runs) == [2, 3, 0, 1]


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
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def observe(call: Call, result: Tensor) -> None:
        seen[call.node.name] = (result, result.clone())

    with torch.no_grad():
        assert torch.equal(Interpreter(program, observe=observe)(module, x), module(x))
    assert len(seen) >= 4
    assert all(torch.equal(result, before) for result, before in seen.values())


def test_what_an_operation_gives_is_seen_and_can_be_replaced() -> None:
    module, x = InPlace().eval(), torch.rand(2, 3, 4, 4)
    program = capture(module, x)
    names: list[str] = []
    sums: list[bool] = []

    def observe(call: Call, result: Tensor) -> None:
        names.append(operation(call.node))
        if names[-1] == "add":  # the arguments are those of this run
            sums.append(torch.equal(call.args[0] + call.args[1], result))

    convolution = next(n for n in program.module.graph.nodes if operation(n) == "conv2d")
    doubled = {convolution: lambda call: call.run() * 2}
    with torch.no_grad():
        found = Interpreter(program, observe=observe, override=doubled)(module, x)
        module.conv.weight.mul_(2)
        module.conv.bias.mul_(2)
        assert torch.allclose(found, module(x), atol=1e-6)
    assert names[:3] == ["conv2d", "relu", "add"]
    assert sums == [True]


def test_a_module_that_was_changed_is_traced_anew() -> None:
    module, x = InPlace().eval(), torch.zeros(1, 3, 4, 4)
    before = capture(module, x)
    module.fc = nn.Linear(4, 7)
    after = capture(module, x)
    assert after is not before
    with torch.no_grad():
        assert Interpreter(after)(module, x).shape == (1, 7)
        # New numbers in the same places need no new program.
        module.fc.weight.mul_(2)
        assert capture(module, x) is after
        assert torch.equal(Interpreter(after)(module, x), module(x))


class Sliced(InPlace):
    """Writes into parts of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x).clone()
        a[:, :2] = a[:, 2:] * 3
        a[:, 1, 1:] += a[:, 0, 1:]
        logits: Tensor = self.fc(a.mean((2, 3)))
        return logits


class WithoutAutocast(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            a = self.conv(x).relu()
        logits: Tensor = self.fc(a.mean((2, 3)))
        return logits


@pytest.mark.parametrize("kind", [Sliced, WithoutAutocast])
def test_a_program_does_what_its_module_does(kind: type[nn.Module]) -> None:
    module, x = kind().eval(), torch.rand(2, 3, 4, 4)
    program = capture(module, x)
    with torch.no_grad():
        assert torch.allclose(Interpreter(program)(module, x), module(x))
    assert {"conv2d", "linear"} < {operation(n) for n in program.module.graph.nodes}


class Turned(InPlace):
    """Writes into a part of a view, which a trace cannot tell from a tensor of its own."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x).clone()
        a.transpose(2, 3)[:, :2] = 3.0
        logits: Tensor = self.fc(a.mean((2, 3)))
        return logits


class OneByOne(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(self.conv(each).mean((1, 2))) for each in x])


@pytest.mark.parametrize("kind", [Turned, OneByOne])
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
        assert torch.equal(Interpreter(capture(module, x))(module, x), module(x))
    handle.remove()


class Branches(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1 if x.sum() > 0 else x)


def test_what_cannot_be_traced_is_said_in_a_line() -> None:
    with pytest.raises(WiringError, match="the classifier cannot be traced: ") as caught:
        capture(Branches().eval(), torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(caught.value)


class Configured(InPlace):
    """What it does depends on a list, a dictionary and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = [1.0, 2.0]
        self.options = {"shift": {"by": 1.0}}
        self.activation = torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        shifted = self.activation(self.conv(x)) + self.options["shift"]["by"]
        logits: Tensor = self.fc(shifted.mean((2, 3))) * self.factors[0]
        return logits


def _list(module: Configured) -> None:
    module.factors[0] = 3.0


def _dictionary(module: Configured) -> None:
    module.options["shift"]["by"] = -1.0


def _function(module: Configured) -> None:
    module.activation = torch.tanh


def _forward(module: Configured) -> None:
    module.forward = lambda x: module.fc(module.conv(x).mean((2, 3)))  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [_list, _dictionary, _function, _forward])
def test_whatever_a_module_does_by_is_a_part_of_its_state(
    change: Callable[[Configured], None],
) -> None:
    module, x = Configured().eval(), torch.rand(2, 3, 4, 4)
    before = capture(module, x)
    assert capture(module, x) is before
    change(module)
    after = capture(module, x)
    assert after is not before
    with torch.no_grad():
        assert torch.allclose(Interpreter(after)(module, x), module(x))
        assert not torch.allclose(Interpreter(before)(module, x), module(x))


def _scaled(module: Configured, factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: module.fc(module.conv(x).mean((2, 3))) * factor


def test_each_of_several_new_forwards_is_traced() -> None:
    module, x = Configured().eval(), torch.rand(2, 3, 4, 4)
    for factor in (1.0, 2.0, 3.0):
        module.forward = _scaled(module, factor)  # type: ignore[method-assign]
        with torch.no_grad():
            assert torch.allclose(Interpreter(capture(module, x))(module, x), module(x))


def test_a_traced_module_is_not_kept_alive() -> None:
    module = Configured().eval()
    weight = weakref.ref(module.conv.weight)
    wire(capture(module, torch.rand(2, 3, 4, 4)))
    del module
    gc.collect()
    assert weight() is None


def test_programs_of_any_floating_dtype() -> None:
    module = InPlace().double().eval()
    x = in_dtype_of(module, torch.rand(2, 3, 4, 4))
    assert x.dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(Interpreter(capture(module, x))(module, x), module(x))
