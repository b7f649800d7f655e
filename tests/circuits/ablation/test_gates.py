"""By hand on the micro network of `conftest`: see there for its numbers."""

import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.circuits.ablation.gates import EXACT, Gates, Slot, average, stacked
from tests.circuits.blocks import COLOURS, Attention

X = COLOURS[0]


@pytest.fixture
def gates(micro: expcam.Classifier) -> Gates:
    return Gates(micro.module, X)


def test_each_input_keeps_a_set_of_its_own(gates: Gates) -> None:
    assert gates.wiring == EXACT
    assert gates.counts == {"conv1": 2, "conv2": 2}
    x = X.expand(3, -1, -1, -1)
    keep = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]])
    logits = gates.logits(x, keep, gates.nothing())
    # The second keeps conv1's first and conv2's second channel: see test_verification.
    torch.testing.assert_close(logits[:, 1], torch.tensor([8.0, 7.0, 0.0]), atol=1e-4, rtol=0)


def test_each_input_has_a_reference_of_its_own(gates: Gates) -> None:
    other = torch.tensor([0.5, 0.0, 1.0])[:, None, None].expand(3, 2, 2)
    mean, zero = gates.means(other[None])[0], gates.nothing()
    keep = torch.tensor([[1.0, 0, 0, 1]])
    logits = gates.logits(X.expand(2, -1, -1, -1), keep, stacked([mean, zero]))
    torch.testing.assert_close(logits[:, 1], torch.tensor([7.75, 7.0]), atol=1e-4, rtol=0)


def test_a_gate_has_a_gradient(gates: Gates) -> None:
    keep = torch.full((1, 4), 0.5, requires_grad=True)
    logits = gates.logits(X[None], keep, gates.nothing())
    (gradient,) = torch.autograd.grad(logits[0, 1], keep)
    step = torch.zeros(1, 4)
    step[0, 3] = 1e-3
    more = gates.logits(X[None], keep.detach() + step, gates.nothing())
    slope = float((more - logits).detach()[0, 1]) / 1e-3
    assert float(gradient[0, 3]) == pytest.approx(slope, rel=1e-2)


def test_passes_are_counted(gates: Gates) -> None:
    gates.passes = 0.0
    gates.logits(X.expand(6, -1, -1, -1), torch.ones(1, 4), gates.nothing())
    assert gates.passes == pytest.approx(2)
    gates.logits(X[None], torch.ones(1, 4, requires_grad=True), gates.nothing())
    assert gates.passes == pytest.approx(3)


def test_a_mean_is_over_positions_and_an_average_over_references() -> None:
    slot = Slot(axis=1, batch=0, shape=torch.Size([1, 2, 1, 2]))
    activation = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]], [[[5.0, 5.0]], [[2.0, 0.0]]]])
    means = slot.mean(activation)
    assert means.shape == (2, 1, 2, 1, 1)
    assert means.flatten().tolist() == [2, 2, 5, 1]
    both = average([{"a": means[:1]}, {"a": means[1:]}])
    assert both["a"].flatten().tolist() == [3.5, 1.5]


def test_windows_of_an_image_lie_side_by_side() -> None:
    # Two images of three windows of two positions and two channels.
    slot = Slot(axis=2, batch=0, shape=torch.Size([3, 2, 2]))
    activation = torch.arange(24.0).view(6, 2, 2)
    keep = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    reference = torch.tensor([-1.0, -2.0]).view(2, 1, 1, 1)
    changed = slot.replaced(activation, keep, reference)
    assert changed[:3, :, 1].unique().tolist() == [-1]
    assert changed[3:, :, 0].unique().tolist() == [-2]
    torch.testing.assert_close(changed[:3, :, 0], activation[:3, :, 0])
    torch.testing.assert_close(changed[3:, :, 1], activation[3:, :, 1])


def test_a_head_is_replaced_with_its_features() -> None:
    net = Attention().eval()
    x = torch.rand(3, 4, 4)
    gates = Gates(net, x)
    whole = net(x[None])
    ones = torch.ones(1, gates.total)
    torch.testing.assert_close(gates.logits(x[None], ones, gates.nothing()), whole)
    own = gates.activations(x[None])[0]
    torch.testing.assert_close(gates.logits(x[None], 0 * ones, own), whole)


class Untraceable(nn.Module):
    """Depends on its input in a way that no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None])
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            x = -x
        logits: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return logits


def test_without_a_wiring_channels_are_replaced_at_modules() -> None:
    gates = Gates(Untraceable().eval(), X)
    assert gates.wiring.startswith("modules: ")
    assert gates.counts == {"conv": 2}
    logits = gates.logits(X[None], torch.tensor([[0.0, 1.0]]), gates.nothing())
    assert logits.tolist() == [[0, 2]]
