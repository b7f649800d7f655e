import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.classifier.network import Reader, network_of, unwrapped
from expcam.errors import ClassifierError
from tests.helpers import RedDetector, keeping_everything, red_square


class Giving(nn.Module):
    """A detector whose logits go through a function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.net, self.function = RedDetector(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.net(x))  # type: ignore[operator]


class OneLogit(nn.Module):
    """Positive where there is red."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.last = RedDetector(), last or nn.Identity()
        self.net.fc = nn.Linear(2, 1)
        with torch.no_grad():
            self.net.fc.weight.copy_(torch.tensor([[64.0, 0.0]]))
            self.net.fc.bias.fill_(-2.0)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.last(self.net(x))
        return last


class InPlace(nn.Module):
    """Normalises its input where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.net = RedDetector()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.sub_(0.5).div_(0.5))
        return logits


@pytest.fixture
def x() -> Tensor:
    return red_square()[None]


def test_a_network_is_the_same_module_with_plain_logits(x: Tensor) -> None:
    module = Giving(lambda z: {"logits": z, "features": z.sum(1)}).eval()
    network = network_of(module, Reader("it", None))
    assert torch.equal(network(x), module.net(x))
    assert isinstance(network, Giving)
    assert [name for name, _ in network.named_modules()] == [n for n, _ in module.named_modules()]
    assert next(network.parameters()) is next(module.parameters())
    module.function = lambda z: z + 1
    assert torch.equal(network(x), module.net(x) + 1)


@pytest.mark.parametrize(
    "end",
    [
        *(nn.Softmax(1), nn.LogSoftmax(1), lambda z: {"out": z.log_softmax(1)}, lambda z: (z, z)),
        lambda z: (z.softmax(1) + z.softmax(1)) / 2,
        lambda z: ((z.softmax(1) + z.softmax(1)) / 2).log(),
    ],
)
def test_confidences_are_what_the_module_says_whatever_it_ends_in(end: object, x: Tensor) -> None:
    classifier = expcam.Classifier(Giving(end).eval())
    expected = RedDetector()(x).softmax(1)
    assert torch.allclose(classifier.logits(x).softmax(1), expected, atol=1e-6)
    assert not classifier.is_multi_label(x[0])


def test_a_circuit_ends_at_the_logits_behind_a_softmax(x: Tensor) -> None:
    plain = expcam.Classifier(Giving(lambda z: z).eval())
    expected = expcam.read_circuit(plain, keeping_everything(plain, x[0], 1)).graph
    for end in (nn.Softmax(1), lambda z: {"probs": z.softmax(-1), "features": z[:, :0]}):
        classifier = expcam.Classifier(Giving(end).eval())
        graph = expcam.read_circuit(classifier, keeping_everything(classifier, x[0], 1)).graph
        assert graph.graph["wiring"] == "exact"
        assert dict(graph.nodes.items()) == dict(expected.nodes.items())
        assert dict(graph.edges.items()) == dict(expected.edges.items())


@pytest.mark.parametrize("last", [None, nn.Sigmoid(), nn.Flatten(0)])
def test_one_logit_is_two_classes(last: nn.Module | None, x: Tensor) -> None:
    classifier = expcam.Classifier(OneLogit(last).eval(), labels=["red"])
    # 64 of 1024 pixels have red 2, times 64, less 2.
    assert classifier.logits(x).tolist() == [[-3.0, 3.0]]
    assert classifier.logits(torch.zeros_like(x)).tolist() == [[1.0, -1.0]]
    assert classifier.labels == ("not red", "red")
    nameless = expcam.Classifier(OneLogit(last).eval())
    yes, no = (expcam.explain_image(nameless, each, area=0.3) for each in (x[0], 0 * x[0]))
    assert (yes.label_name, no.label_name) == ("yes", "no")
    assert yes.confidence == pytest.approx(float(torch.tensor(6.0).sigmoid()))
    assert no.confidence == pytest.approx(float(torch.tensor(2.0).sigmoid()))
    with pytest.raises(ClassifierError, match="has one logit, so 2 classes, but 3 labels"):
        expcam.Classifier(OneLogit(last).eval(), labels=list("abc")).logits(x)


def test_both_sides_of_one_logit_have_a_circuit(x: Tensor) -> None:
    classifier = expcam.Classifier(OneLogit(nn.Sigmoid()).eval())
    for label, weight in ((0, -0.5), (1, 0.5)):
        explanation = keeping_everything(classifier, x[0], label)
        circuit = expcam.read_circuit(classifier, explanation)
        assert circuit.graph.graph["wiring"] == "exact"
        assert circuit.class_node == ("sides", label)
        signed = circuit.graph.edges[("net.fc", 0), ("sides", label)]["signed"]
        assert signed == pytest.approx(weight * 6)
        check = expcam.verify_circuit(classifier, circuit, [explanation], draws=1, sizes=(0.5,))
        assert check.holds == (label == 1)


def test_an_input_that_is_overwritten_is_a_copy(x: Tensor) -> None:
    classifier = expcam.Classifier(InPlace().eval())
    before = x.clone()
    explanation = expcam.explain_image(classifier, x[0], area=0.3)
    circuit = expcam.read_circuit(classifier, explanation)
    expcam.compare(classifier, explanation)
    assert circuit.graph.graph["wiring"] == "exact"
    assert torch.equal(x, before)
    assert torch.equal(torch.from_numpy(explanation.input), before[0])


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel]
)
def test_behind_wrappers_layers_have_the_names_that_the_user_knows(wrap: object, x: Tensor) -> None:
    module = RedDetector().eval()
    wrapped = wrap(module)  # type: ignore[operator]
    assert isinstance(unwrapped(wrapped), RedDetector)
    classifier = expcam.Classifier(wrapped)
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x[0], 1))
    assert circuit.layers == ["colour", "mix", "fc"]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")  # files of it are about
@pytest.mark.parametrize(
    ("last", "expected"), [(nn.Identity(), 0.9975), (nn.Sigmoid(), 0.9975), (nn.Softmax(1), 1.0)]
)
def test_a_scripted_module_has_masks_but_no_circuit(
    last: nn.Module, expected: float, x: Tensor
) -> None:
    traced = torch.jit.trace(OneLogit(last).eval(), torch.cat([x, x]), check_trace=False)
    if isinstance(last, nn.Softmax):
        traced = torch.jit.trace(
            nn.Sequential(RedDetector(), last).eval(), torch.cat([x, x]), check_trace=False
        )
        expected = float(RedDetector()(x).softmax(1)[0, 1].detach())
    classifier = expcam.Classifier(traced)
    explanation = expcam.explain_image(classifier, x[0], area=0.3)
    assert explanation.confidence == pytest.approx(expected, abs=1e-3)
    assert explanation.kept
    with pytest.raises(ClassifierError, match=r"is a TorchScript module.*masks but no circuit"):
        expcam.read_circuit(classifier, explanation)


def test_a_lazy_layer_has_to_be_run_first() -> None:
    with pytest.raises(ClassifierError, match="lazy layers without weights: run it on an image"):
        expcam.Classifier(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
