"""What is a layer, what is a gate, and what is not understood."""

import networkx as nx
import pytest
import torch
import torchvision
from torch import Tensor, nn

import expcam
from expcam.circuits.trace.program import capture
from expcam.circuits.trace.wiring import Wiring, wire
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError
from tests.circuits import blocks
from tests.circuits.blocks import Mixes, Twice
from tests.helpers import keeping_everything


def wiring_of(module: nn.Module, side: int = 2) -> Wiring:
    with frozen(module):
        return wire(capture(module, torch.zeros(1, 3, side, side)))


def test_layers_have_the_names_of_their_modules_or_weights() -> None:
    gated = wiring_of(blocks.SqueezeAndExcitation([[0.0] * 3, [1.0] * 3]))
    # What makes the gate is no layer.
    assert list(gated.sites) == ["first", "classes"]
    assert gated.output_layer == "classes"
    assert list(wiring_of(blocks.Functional()).sites) == ["kernels", "hidden", "classes"]
    # Of attention the heads; projections into and out of them, and of an MLP, are none.
    assert list(wiring_of(blocks.Attention()).sites) == ["embed", "attention", "up", "head"]


class Hidden(Mixes):
    """A sum of what can be followed and what cannot."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        logits: Tensor = self.fc((a + a.cumsum(3)).mean((2, 3)))
        return logits


class OwnGate(Mixes):
    """Nothing is known of the gate, but it is only a gate."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        logits: Tensor = self.fc((a * a.cumsum(3).sigmoid()).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Mixes, "cannot follow channels through `sort`"),
        (Hidden, "cannot follow channels through `cumsum`"),
    ],
)
def test_what_is_not_understood_is_named(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(WiringError, match=message) as caught:
        wiring_of(kind().eval(), 4)
    assert "\n" not in str(caught.value)


class Spread(blocks.SqueezeAndExcitation):
    """The gate is spread over the map before the product, and written first."""

    def block(self, a: Tensor) -> Tensor:
        gate = torch.sigmoid(self.squeeze(a.mean((2, 3), keepdim=True)))
        return gate.expand_as(a) * a


class Dynamic(Mixes):
    """The image makes the weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight * x.mean()
        logits: Tensor = self.fc(torch.nn.functional.conv2d(x, weight).mean((2, 3)))
        return logits


def test_a_gate_that_was_spread_is_a_gate_still() -> None:
    assert list(wiring_of(Spread([[0.0] * 3, [1.0] * 3]).eval()).sites) == ["first", "classes"]


def test_weights_that_the_image_makes_are_refused() -> None:
    with pytest.raises(WiringError, match="cannot follow channels through `conv2d`"):
        wiring_of(Dynamic().eval(), 4)


def test_a_gate_may_be_anything() -> None:
    assert list(wiring_of(OwnGate().eval(), 4).sites) == ["conv", "fc"]


class Ensemble(Mixes):
    """The mean of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x).mean((2, 3))
        logits: Tensor = (self.fc(pooled) + self.second(pooled)) / 2
        return logits


class WithoutTheFirst(Mixes):
    """The class at index 0 is the layer's second channel."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).mean((2, 3)))[:, 1:]
        return logits


class EndsInProbabilities(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3))).log_softmax(1)  # type: ignore[no-any-return]


class Tied(Mixes):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.two(self.one(self.conv(x))).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        (Twice, ["conv", "conv@2", "fc"]),
        (Tied, ["conv", "one", "two", "fc"]),
        # Where no layer's own channels are the classes, these are a layer by themselves.
        (Ensemble, ["conv", "fc", "second", "logits"]),
        (WithoutTheFirst, ["conv", "fc", "logits"]),
        (EndsInProbabilities, ["conv", "fc"]),
    ],
)
def test_layers_that_are_used_again_and_classes_of_their_own(
    kind: type[nn.Module], layers: list[str]
) -> None:
    wiring = wiring_of(kind().eval(), 4)
    assert list(wiring.sites) == layers
    assert wiring.output_layer == layers[-1]


QUICK = {"mobilenet_v3_small", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1"}
"""Of the other families one is among the tests of layers, whose contributions must add up."""
SIDES = {"inception_v3": 80, "maxvit_t": 224, "alexnet": 96, "vit_h_14": 56}


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in torchvision.models.list_models(module=torchvision.models)
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_every_torchvision_classifier_is_wired_from_the_image_to_the_class(name: str) -> None:
    side = SIDES.get(name, 64)
    options = {"image_size": side} if name.startswith("vit") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torchvision.models.get_model(name, weights=None, **options).eval()
        x = torch.randn(3, side, side)
        for parameter in module.parameters():
            if not parameter.any():  # some begin with a last layer of zeros
                nn.init.normal_(parameter, 0, 0.1)
    classifier = expcam.Classifier(module, transform=lambda image: x, name=name)
    whole = keeping_everything(classifier, x, 3)
    # Where channels are divided into groups a few from each would not meet.
    grouped = name.startswith(("resnext", "regnet", "shufflenet"))
    circuit = expcam.read_circuit(
        classifier, whole, coverage=1.0, top_k=32 if grouped else 3, include_input=True
    )
    layers = nx.DiGraph()
    layers.add_edges_from((source[0], target[0]) for source, target in circuit.graph.edges)
    wiring = wire(capture(module, x[None]))
    output = wiring.output_layer
    assert circuit.class_node == (output, 3)
    assert nx.ancestors(layers, output) == {"input", *wiring.sites} - {output}
    assert nx.descendants(layers, "input") == set(wiring.sites)
    # No channel is out of range.
    own = dict(module.named_parameters())
    for layer, nodes in circuit.nodes.groupby("layer"):
        weight = own.get(f"{layer}.weight")
        if weight is not None:
            assert nodes["channel"].max() < len(weight)
    assert (circuit.nodes["channel"] >= 0).all()
