"""On the micro network of `conftest`, whose numbers bfloat16 can hold, and on a mobile block."""

import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.circuits.ablation.gates import Gates
from expcam.circuits.trace.faster import in_bfloat16
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.program import Call, Interpreter, Override, Program, capture
from expcam.classifier.frozen import frozen
from tests.circuits.blocks import COLOURS

X = COLOURS[0]


def overrides(program: Program, module: nn.Module, *apart: str) -> dict[str, Override]:
    nodes = [n for n in program.module.graph.nodes if n.name in apart]
    found = in_bfloat16(program, program.arguments(module, X[None]), nodes)
    return {n.name: override for n, override in found.items()}


def test_batch_norms_are_folded_into_the_weights(micro: expcam.Classifier) -> None:
    program = capture(micro.module, X[None])
    found = overrides(program, micro.module)
    assert {name.rstrip("_0123456789") for name in found} == {"conv2d", "batch_norm", "linear"}
    assert len(found) == 5
    nodes = {n.name: n for n in program.module.graph.nodes}
    runs = Interpreter(program, override={nodes[name]: each for name, each in found.items()})
    with torch.no_grad():
        logits = runs(micro.module, X[None])
    assert logits.dtype == torch.bfloat16
    assert logits[0].tolist() == pytest.approx([1, 8], abs=0.05)


def test_what_is_looked_at_by_itself_keeps_its_batch_norm(micro: expcam.Classifier) -> None:
    program = capture(micro.module, X[None])
    first = next(n.name for n in program.module.graph.nodes if operation(n) == "conv2d")
    assert len(overrides(program, micro.module, first)) == 4


class Mobile(nn.Module):
    """A convolution, and a depthwise one with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def test_logits_and_gradients_are_nearly_those_of_float32() -> None:
    torch.manual_seed(0)
    module = Mobile().eval()
    module.norm.running_mean, module.norm.running_var = torch.rand(8), torch.rand(8) + 0.5
    x = torch.randn(2, 3, 8, 8)
    with frozen(module):
        gates = Gates(module, x[0])
        found = []
        for fast in (False, True):
            keep = torch.full((2, gates.total), 0.5, requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = gates.logits(x, keep, gates.nothing())
            found.append((logits.detach(), *torch.autograd.grad(logits[:, 0].sum(), keep)))
    for exact, rough in zip(*found, strict=True):
        assert not torch.equal(exact, rough)
        torch.testing.assert_close(rough, exact, atol=0.02, rtol=0.05)


def test_a_depthwise_convolution_with_a_stride_stays_exact() -> None:
    module = Mobile().eval()
    with frozen(module), torch.no_grad():
        program = capture(module, X[None])
        x = torch.randn(1, 8, 4, 4)
        convolutions = [n for n in program.module.graph.nodes if operation(n) == "conv2d"]
        node = convolutions[1]
        run = overrides(program, module)[node.name]
        weight, bias = module.depthwise.weight, module.depthwise.bias
        result = run(Call(node, (x, weight, bias, *node.args[3:]), {}))
        torch.testing.assert_close(result, module.depthwise(x))
