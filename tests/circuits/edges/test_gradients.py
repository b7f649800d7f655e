import pytest
import torch
import torchvision
from torch import Tensor, nn

import expcam
from expcam.circuits import readout
from expcam.circuits.edges.gradients import LOGITS, read_modules
from expcam.circuits.edges.layers import follow
from expcam.circuits.scores import EDGE_SCORES
from expcam.circuits.trace.recording import INPUT, Channels, measure
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError, ExpcamWarning, WiringError
from tests.circuits.blocks import Mixes, Twice
from tests.helpers import keeping_everything


def first_three(_: str, channels: Channels) -> Tensor:
    return torch.arange(min(3, len(channels.activation)))


def test_hooks_find_the_edges_that_the_wiring_gives() -> None:
    """Two ways to the same numbers: gradients between cut modules, and weights along the wiring.

    SqueezeNet has neither batch norms nor sums, so that what a channel adds is its weight times
    its activation either way.
    """
    torch.manual_seed(0)
    module = torchvision.models.squeezenet1_1(weights=None).double().eval()
    e = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with frozen(module):
        measured = measure(module, e, 5, first_three)
        exact = {}
        for each in follow(measured.recording, measured.active):
            for j, target in enumerate(each.targets.tolist()):
                for i, source in enumerate(each.sources.tolist()):
                    exact[each.source, source, each.target, target] = float(each.signed[j, i])
        reading = read_modules(module, e, 5, first_three)
    found = {
        (edge.source, source, edge.target, int(edge.targets)): float(signed)
        for edge in reading.edges
        for source, signed in zip(edge.sources.tolist(), edge.signed[0], strict=True)
    }
    # The last convolution's channels are the classes, but a ReLU and a mean stand between.
    assert measured.recording.output_layer == "classifier.1"
    assert reading.output_layer == LOGITS
    exact, found = (
        {edge: value for edge, value in each.items() if edge[2] not in ("classifier.1", LOGITS)}
        for each in (exact, found)
    )
    assert len(exact) > 200
    assert set(exact) <= set(found)
    largest = max(abs(value) for value in exact.values())
    for edge, value in found.items():
        assert value == pytest.approx(exact.get(edge, 0), abs=1e-9 * largest), edge


def test_a_classifier_that_cannot_be_followed_is_read_at_its_modules() -> None:
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    module = Mixes().train()
    classifier = expcam.Classifier(module, transform=lambda image: x)
    whole = keeping_everything(classifier, x, 1)
    with pytest.warns(ExpcamWarning, match="`sort`.* read at the classifier's modules instead"):
        circuit = expcam.read_circuit(classifier, whole, coverage=1.0)
    assert circuit.graph.graph["wiring"].startswith("modules: the readout cannot follow")
    assert circuit.class_node == ("fc", 1)
    # The mean over space of sorted channels is linear: weight times mean, whichever is which.
    with torch.no_grad():
        ranked = module.conv(x[None]).sort(1)
    signed = torch.zeros(4)
    signed.index_add_(
        0,
        ranked.indices.flatten(),
        (ranked.values * module.fc.weight[1].detach()[:, None, None]).flatten() / 16,
    )
    edges = circuit.edges.set_index("source_channel")["signed"]
    signed = signed.detach()
    assert edges.to_dict() == pytest.approx({n: float(v) for n, v in enumerate(signed)}, rel=1e-5)
    assert all(each.training for each in module.modules())
    assert not any(each._forward_hooks for each in module.modules())
    readout.check_readable(classifier, x)


@pytest.mark.filterwarnings("ignore:.*read at the classifier's modules")
def test_every_score_of_edges_is_given_and_named_for_what_it_is() -> None:
    """With gradients for weights; the mean over space of sorted channels is linear."""
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    module = Mixes().eval()
    classifier = expcam.Classifier(module, transform=lambda image: x)
    whole = keeping_everything(classifier, x, 1)
    circuits = {
        name: expcam.read_circuit(classifier, whole, coverage=1.0, edges=name)
        for name in EDGE_SCORES
    }
    with torch.no_grad():
        activations = module.conv(x[None])
        ranks = activations.sort(1).indices
        # What weighs each pixel of each channel: the class's weight of its rank, of 16 pixels.
        weights = torch.zeros_like(activations).scatter(
            1, ranks, module.fc.weight[1].view(1, 4, 1, 1).expand(1, 4, 4, 4) / 16
        )
        weight, signed = weights.abs().sum((0, 2, 3)), (weights * activations).sum((0, 2, 3))
        activation = activations.abs().mean((0, 2, 3))
    # The class is the target, and the gradient of its logit by itself is 1.
    expected = {
        "weight×activation": weight * activation,
        "signed": signed.abs(),
        "gradient×activation": signed.abs(),
        "weight×activation×gradient": weight * activation,
        "activation": activation,
        "weight": weight,
    }
    for name, circuit in circuits.items():
        assert circuit.graph.graph["edges"] == f"{name} (gradients as weights)"
        into = circuit.edges.query("target_layer == 'fc'").set_index("source_channel")["score"]
        by_hand = {n: float(v) for n, v in enumerate(expected[name])}
        assert into.to_dict() == pytest.approx(by_hand, rel=1e-4), name


def test_blocks_that_are_not_known_are_said_to_be_so() -> None:
    x = torch.rand(3, 4, 4)
    classifier = expcam.Classifier(Mixes().eval(), transform=lambda image: x)
    with pytest.warns(ExpcamWarning, match="it has all layers, since blocks are not known"):
        circuit = expcam.read_circuit(
            classifier, keeping_everything(classifier, x, 1), granularity="blocks"
        )
    assert circuit.graph.graph["granularity"] == "layers"
    with pytest.raises(WiringError, match="`sort`"):
        expcam.verify_circuit(classifier, circuit, [x])


@pytest.mark.filterwarnings("ignore:.*read at the classifier's modules")
def test_modules_of_a_float64_classifier() -> None:
    x = torch.rand(3, 4, 4)
    classifier = expcam.Classifier(Mixes().double().eval(), transform=lambda image: x)
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x, 1))
    assert circuit.class_node == ("fc", 1)


class Calibrated(Mixes):
    """What is given back is no module's output."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x) / 2
        return logits


def test_logits_of_no_module() -> None:
    with frozen(Calibrated()) as module:
        reading = read_modules(module, torch.rand(1, 3, 4, 4), 1, first_three)
    assert reading.output_layer == LOGITS
    assert {edge.source for edge in reading.edges if edge.target == LOGITS} == {"fc"}


class Untouched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().mean((2, 3))


def test_what_not_even_hooks_can_read() -> None:
    x = torch.rand(3, 4, 4)
    classifier = expcam.Classifier(Untouched(), transform=lambda image: x)
    with pytest.raises((ClassifierError, RuntimeError), match=r"no gradient|does not"):
        readout.check_readable(classifier, x)


def test_a_module_that_is_used_twice_is_two() -> None:
    with frozen(Twice()) as module:
        reading = read_modules(module, torch.rand(1, 3, 4, 4), 1, first_three)
    assert list(reading.channels) == [INPUT, "conv", "conv@2", "fc"]
    assert {edge.source for edge in reading.edges if edge.target == "fc"} == {"conv", "conv@2"}
