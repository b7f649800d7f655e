import pytest
import torch

import expcam
from expcam.errors import ClassifierError
from expcam.explain.compare.attributions import BASELINES, gradcam
from tests.helpers import hooks, red_square


@pytest.mark.parametrize("method", [name for name in BASELINES if name != "disc"])
def test_attributions_find_the_square(detector: expcam.Classifier, method: str) -> None:
    attribution = BASELINES[method].attribute(detector, red_square(), 1)
    assert attribution.shape == (32, 32)
    row, column = divmod(int(attribution.argmax()), 32)
    assert 4 <= row < 12
    assert 16 <= column < 24
    assert hooks(detector.module) == 0


@pytest.mark.parametrize("method", [name for name in BASELINES if name != "disc"])
def test_a_bad_class_leaves_no_hook(detector: expcam.Classifier, method: str) -> None:
    with pytest.raises((IndexError, AssertionError, RuntimeError)):
        BASELINES[method].attribute(detector, red_square(), 99)
    assert hooks(detector.module) == 0
    assert all(p.requires_grad for p in detector.module.parameters())


def test_the_control_knows_only_the_centre(detector: expcam.Classifier) -> None:
    disc = BASELINES["disc"].attribute(detector, torch.zeros(3, 5, 5), 0)
    assert int(disc.argmax()) == 12
    assert disc[0, 0] == disc.min()


def test_gradcam_without_feature_maps_says_so() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    classifier = expcam.Classifier(flat, transform=lambda image: torch.zeros(3, 2, 2))
    with pytest.raises(ClassifierError, match="Grad-CAM needs a convolutional feature map"):
        gradcam(classifier, torch.zeros(3, 2, 2), 0)
