import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import expcam
from expcam.classifier.frozen import frozen, require_autograd
from expcam.errors import ClassifierError
from tests.helpers import RedDetector, keeping_everything, red_square


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    net.train()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[0].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    net = model()
    grad = net[0].weight.grad
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        with frozen(net):
            assert not any(each.training for each in net.modules())
            assert not any(p.requires_grad for p in net.parameters())
            net(torch.randn(2, 3, 4, 4))
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert [each.training for each in net] == [True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    assert net[0].weight.grad is grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_needs_gradients_says_so_in_inference_mode() -> None:
    require_autograd("a mask")
    with torch.no_grad():
        require_autograd("a mask")
    with (
        torch.inference_mode(),
        pytest.raises(ClassifierError, match=r"a mask needs gradients: .* torch\.inference_mode"),
    ):
        require_autograd("a mask")


class Caching(nn.Module):
    """Keeps on itself, at its first call, what it needs for images of a size."""

    def __init__(self) -> None:
        super().__init__()
        self.net = RedDetector()
        self.window: Tensor | None = None
        self.tables: dict[int, Tensor] = {}
        self.sizes: list[int] = []
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[-1]
        if self.window is None or self.window.shape[-1] != side:
            self.window = torch.ones(side)
        if side not in self.tables:
            self.tables[side] = torch.ones(side)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(3, 1, 1))
        self.sizes.append(side)
        self.calls.add_(1)
        logits: Tensor = self.net(x * self.window * self.tables[side] * self.late)
        return logits


WORK = {
    "explain": lambda classifier, whole: expcam.explain_image(classifier, red_square(), area=0.3),
    "read": expcam.read_circuit,
    "compare": lambda classifier, whole: expcam.compare(classifier, whole, ["gradcam", "ig"]),
}


@pytest.mark.parametrize("first", list(WORK))
def test_what_a_module_makes_at_its_first_call_is_gone_and_it_stays_usable(first: str) -> None:
    module = Caching().eval()
    classifier = expcam.Classifier(module)
    whole = keeping_everything(classifier, red_square(), 1)
    for name in (first, *WORK):
        result = WORK[name](classifier, whole)
        assert module.window is None
        assert module.tables == {}
        assert module.sizes == []
        assert module.calls == 0
        assert not hasattr(module, "late")
        if isinstance(result, expcam.Circuit):
            assert result.graph.graph["wiring"] == "exact"
    x = red_square()[None].requires_grad_()
    module(x)[0, 1].backward()
    assert x.grad is not None


def test_what_was_made_in_inference_mode_does_no_harm_and_comes_back() -> None:
    module = Caching().eval()
    with torch.inference_mode():
        module(red_square()[None])
    window, table = module.window, module.tables[32]
    classifier = expcam.Classifier(module)
    assert expcam.explain_image(classifier, red_square(), area=0.3).kept
    assert module.window is window
    assert module.tables[32] is table
    with torch.inference_mode():
        weights = RedDetector()
    assert expcam.explain_image(expcam.Classifier(weights), red_square(), area=0.3).kept
    assert weights.fc.weight.is_inference()


def test_a_weight_that_is_made_from_others_can_be_tested_by_ablation() -> None:
    module = RedDetector()
    prune.identity(module.mix, "weight")
    classifier = expcam.Classifier(module)
    whole = keeping_everything(classifier, red_square(), 1)
    circuit = expcam.read_circuit(classifier, whole)
    assert circuit.layers == ["colour", "mix", "fc"]
    assert expcam.verify_circuit(classifier, circuit, [whole], draws=1, sizes=(0.5,)).holds
    assert module.mix.weight.grad_fn is not None


def test_inside_nothing_is_run_compiled() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.compile(backend=lambda *_: pytest.fail("compiled"))
    with frozen(module):
        module(torch.zeros(1, 2))
    assert module._compiled_call_impl is not None


def test_threads_take_turns() -> None:
    classifier = expcam.Classifier(RedDetector().train())
    alone = expcam.explain_image(classifier, red_square(), area=0.3)
    found: list[object] = []

    def explain() -> None:
        again = expcam.explain_image(classifier, red_square(), area=0.3)
        found.append(bool((again.mask == alone.mask).all()))

    def read() -> None:
        found.append(expcam.read_circuit(classifier, alone).graph.graph["wiring"] == "exact")

    threads = [threading.Thread(target=each) for each in (explain, read) * 2]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [True] * 4
    assert all(each.training for each in classifier.module.modules())
