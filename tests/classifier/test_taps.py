from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

import expcam
from expcam.classifier.taps import stage_outputs, with_outputs
from expcam.errors import ClassifierError
from tests.helpers import hooks, red_square


def test_outputs_are_seen_and_no_hook_is_left(detector: expcam.Classifier) -> None:
    x, module = red_square()[None], detector.module
    _, seen = with_outputs(module, ["halved", "mix"], lambda: module(x), 1)
    assert list(seen) == ["halved", "mix"]
    # 4 by 4 of the 16 by 16 halved pixels show red 2, seen through the weight 1.
    assert seen["mix"][0, 0].sum() == 2 * 4 * 4
    assert hooks(module) == 0


def test_hooks_go_also_after_an_exception(detector: expcam.Classifier) -> None:
    bad = torch.zeros(1, 5, 8, 8)
    with pytest.raises(RuntimeError):
        with_outputs(detector.module, ["fc"], lambda: detector.module(bad), 1)
    assert hooks(detector.module) == 0
    with pytest.raises(RuntimeError):
        stage_outputs(detector, bad[0])
    assert hooks(detector.module) == 0


def test_an_unknown_layer_is_named_with_those_there_are(detector: expcam.Classifier) -> None:
    with pytest.raises(
        ClassifierError, match=r"layer `layer5` not found; .* has: colour, relu, halved"
    ):
        with_outputs(detector.module, ["layer5"], lambda: torch.zeros(1), 1)


def test_stages_of_a_resnet_are_the_published_taps() -> None:
    resnet = expcam.load_classifier("resnet18", None, device="cpu")
    logits, outputs = stage_outputs(resnet, torch.zeros(3, 64, 64))
    assert list(outputs) == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert logits.shape == (1000,)
    assert outputs["layer4"].shape == (1, 512, 2, 2)


def test_a_transformer_gives_a_tap_per_quarter() -> None:
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32
    )
    classifier = expcam.Classifier(vit.eval(), transform=lambda image: red_square())
    _, taps = stage_outputs(classifier, red_square())
    assert len(taps) >= 4
    assert any(name.startswith("encoder.layers.encoder_layer_11") or "ln" in name for name in taps)


def test_real_squeezenet(shared: Path) -> None:
    squeezenet = expcam.load_classifier(
        "squeezenet1_0", shared / "models/squeezenet1_0.safetensors", device="cpu"
    )
    for classifier in (squeezenet, squeezenet.between(1, 2)):
        _, taps = stage_outputs(classifier, torch.zeros(3, 224, 224))
        assert list(taps)[-1] == "classifier.0"


class OneReLU(torch.nn.Module):
    """A network whose only ReLU is called behind each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.relu = torch.nn.ReLU()
        self.fc1, self.fc2 = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.fc2(self.relu(self.fc1(maps.mean((2, 3)))))


def test_a_module_that_is_called_again_later_ends_no_stage() -> None:
    classifier = expcam.Classifier(OneReLU().eval(), transform=lambda image: red_square())
    _, stages = stage_outputs(classifier, red_square())
    assert list(stages) == ["conv1", "conv2"]
    assert expcam.explain_image(classifier, red_square()).kept


def test_a_batch_that_a_module_takes_apart_is_put_together_again() -> None:
    class OneByOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.inner(each[None]) for each in x]).mean((2, 3))

    torch.manual_seed(0)
    module, x = OneByOne().eval(), torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        _, outputs = with_outputs(module, ["inner"], lambda: module(x), len(x))
        assert torch.allclose(outputs["inner"], module.inner(x))
        # Of a module that is called twice on a batch the last output counts.
        twice = nn.Sequential(module.inner, nn.Conv2d(2, 3, 1), module.inner)
        _, outputs = with_outputs(twice, ["0"], lambda: twice(x), len(x))
        assert torch.allclose(outputs["0"], twice(x))


class Tutorial(nn.Module):
    """One pool after two convolutions, as in many first networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(5 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits


def test_of_a_layer_that_is_used_at_two_sizes_the_last_output_counts() -> None:
    torch.manual_seed(0)
    module = Tutorial().eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        _, outputs = with_outputs(module, ["pool", "fc"], lambda: module(x), 4)
    assert outputs["pool"].shape == (4, 5, 6, 6)
    explanation = expcam.explain_image(expcam.Classifier(module), x[0], target=1)
    assert "pool" in explanation.match.pooled


def test_what_is_not_called_or_has_other_rows_is_left_out() -> None:
    module = nn.ModuleDict({"used": nn.Identity(), "idle": nn.Identity()})
    x = torch.ones(3, 2)

    def run() -> torch.Tensor:
        module["used"](x[:1])
        return x

    _, outputs = with_outputs(module, ["used", "idle"], run, 3)
    assert outputs == {}
