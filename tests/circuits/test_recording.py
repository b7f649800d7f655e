import pytest
import torch
from torch import Tensor, nn

import expcam
from expcam.circuits.recording import record
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError


def shaken(name: str) -> nn.Module:
    """A torchvision model in float64 with random weights and random batch norm statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = expcam.load_classifier(name, None, device="cpu").module.double()
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                nn.init.uniform_(each.running_var, 0.5, 2)
                nn.init.normal_(each.running_mean, 0, 0.3)
                nn.init.uniform_(each.weight, -1.5, 1.5)
                nn.init.normal_(each.bias, 0, 0.3)
    return module


# Sums, concatenations, flattening, grouped convolutions, squeeze-and-excitation, branches.
@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_0", "vgg11", "resnext50_32x4d", "regnet_y_400mf", "googlenet"]
)
def test_contributions_of_all_sources_add_up_to_the_preactivation(name: str) -> None:
    module = shaken(name)
    preactivations: dict[str, Tensor] = {}
    biases: dict[str, Tensor | float] = {}
    for layer, each in module.named_modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            biases[layer] = 0.0 if each.bias is None else each.bias.detach()

            def keep(_m: nn.Module, _i: object, output: Tensor, layer: str = layer) -> None:
                preactivations[layer] = output.detach().reshape(output.shape[1], -1).mean(1)

            each.register_forward_hook(keep)
    generator = torch.Generator().manual_seed(1)
    e = torch.randn(1, 3, 80, 80, generator=generator, dtype=torch.float64)
    with frozen(module):
        recording = record(module, e)
    assert len(recording.layers) >= 11
    for layer in recording.layers.values():
        total = torch.zeros(len(layer.weight), dtype=torch.float64)
        targets = len(layer.weight) // layer.groups
        for group in range(layer.groups):
            rows = slice(group * targets, (group + 1) * targets)
            first = group * layer.weight.shape[1]
            for read in layer.reads:
                mine = (read.columns >= first) & (read.columns < first + layer.weight.shape[1])
                weight = layer.weight[rows][:, read.columns[mine] - first]
                total[rows] += torch.einsum("jik,ik->j", weight, read.mean[mine])
        expected = preactivations[layer.name] - biases[layer.name]
        error = (total - expected).abs().max() / expected.abs().max()
        assert error < 1e-6, layer.name


def test_the_module_is_left_as_it_was() -> None:
    module = expcam.load_classifier("resnet18", None, device="cpu").module
    with frozen(module):
        record(module, torch.zeros(1, 3, 64, 64))
    relus = [each for each in module.modules() if isinstance(each, nn.ReLU)]
    assert all(each.inplace for each in relus)


class Mixes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).sort(1).values.mean((2, 3)))
        return logits


class Branches(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x + 1
        return super().forward(x)


class Twice(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc((self.conv(x) + self.conv(x)).mean((2, 3)))
        return logits


class FlatRelu(Mixes):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.conv(x).flatten(1)))
        return logits


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Mixes, r"does not understand `.*sort"),
        (Branches, "cannot be traced"),
        (Twice, "`conv` is used twice"),
        (FlatRelu, r"does not understand `.*relu"),
    ],
)
def test_what_is_not_understood_is_named(kind: type[nn.Module], message: str) -> None:
    module = kind()
    with pytest.raises(ClassifierError, match=message) as caught, frozen(module):
        record(module, torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(caught.value)


# Depthwise convolutions, dense blocks, asymmetric kernels.
@pytest.mark.parametrize(
    ("name", "side"),
    [("densenet121", 64), ("mobilenet_v3_small", 64), ("efficientnet_b0", 64), ("mnasnet0_5", 64),
     ("inception_v3", 96), ("alexnet", 96)],
)  # fmt: skip
def test_every_layer_is_read_by_another_on_the_way_to_the_class(name: str, side: int) -> None:
    module = expcam.load_classifier(name, None, device="cpu").module
    with frozen(module):
        recording = record(module, torch.ones(1, 3, side, side))
    readers = {read.source for layer in recording.layers.values() for read in layer.reads}
    gates = {layer for layer in recording.layers if layer.rsplit(".", 1)[-1] in ("fc1", "fc2")}
    auxiliary = {layer for layer in recording.layers if layer.startswith("AuxLogits")}
    unread = set(recording.layers) - readers - gates - auxiliary
    assert unread == {recording.output_layer}
    for layer in recording.layers.values():
        assert all(
            int(read.columns.max()) < layer.weight.shape[1] * layer.groups for read in layer.reads
        )
        assert all(
            int(read.channels.max()) < len(recording.layers[read.source].weight)
            for read in layer.reads
            if read.source != "input"
        )


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "convnext_tiny", "vit_b_32"])
def test_architectures_that_are_not_understood_say_so(name: str) -> None:
    module = expcam.load_classifier(name, None, device="cpu").module
    with pytest.raises(ClassifierError, match="does not understand"), frozen(module):
        record(module, torch.zeros(1, 3, 224, 224))
