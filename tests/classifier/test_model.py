import numpy as np
import pytest
import torch
from torch import nn

import expcam
from expcam.errors import ClassifierError, ExpcamWarning, ImageError, TargetError
from tests.helpers import EXAMPLES, RedDetector, red_square


def test_prepare_shows_what_the_classifier_sees(bundled: expcam.Classifier) -> None:
    prepared = bundled.prepare(EXAMPLES / "cat.jpg")
    side = prepared.input.shape[-1]
    assert prepared.input.shape == (3, side, side)
    assert prepared.picture.shape == (side, side, 3)
    finer = prepared.photo.shape[0] // side
    assert prepared.photo.shape == (finer * side, finer * side, 3)
    assert finer * side >= 448
    coarse = prepared.photo.reshape(side, finer, side, finer, 3).mean((1, 3))
    assert np.abs(coarse - prepared.picture).mean() < 6


def test_a_tensor_is_taken_as_it_is(detector: expcam.Classifier) -> None:
    x = red_square()
    assert torch.equal(detector.prepare(x).input, x)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"not float32 \(1, 3, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"not float32 \(3, 0, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"not uint8"),
        (torch.full((3, 8, 8), torch.nan), "NaN"),
    ],
)
def test_tensors_that_are_no_images(
    detector: expcam.Classifier, tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        detector.prepare(tensor)


def test_a_class_by_index_name_or_digits(detector: expcam.Classifier) -> None:
    assert detector.class_index(2, 3) == 2
    assert detector.class_index("2", 3) == 2
    assert detector.class_index(" Blue ", 3) == 2
    with pytest.raises(TargetError, match=r"unknown class `blu` .* did you mean blue"):
        detector.class_index("blu", 3)
    with pytest.raises(TargetError, match=r"unknown class 3: .* classes 0 to 2"):
        detector.class_index(3, 3)
    with pytest.raises(TargetError, match="unknown class -1"):
        detector.class_index(-1, 3)
    assert detector.class_index(np.argmax([0, 1, 0]), 3) == 1  # type: ignore[arg-type]


def test_a_name_that_several_classes_have() -> None:
    labels = ["Cardigan", "cardigan", "crane", "crane"]
    classifier = expcam.Classifier(nn.Identity(), lambda image: torch.zeros(3, 4, 4), labels)
    assert classifier.class_index("Cardigan", 4) == 0
    assert classifier.class_index("cardigan", 4) == 1
    with pytest.raises(TargetError, match=r"several classes `CARDIGAN`: 0 .*, 1 .* give an index"):
        classifier.class_index("CARDIGAN", 4)
    with pytest.raises(TargetError, match=r"several classes `crane`: 2 .*, 3 "):
        classifier.class_index("crane", 4)


def test_what_is_no_classifier() -> None:
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ClassifierError, match=r"not int"):
        expcam.Classifier(3, transform=lambda image: x)  # type: ignore[arg-type]
    maps = expcam.Classifier(nn.Identity(), transform=lambda image: x)
    with pytest.raises(ClassifierError, match=r"it gave \(1, 3, 4, 4\)"):
        maps.logits(x)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    few = expcam.Classifier(flat, transform=lambda image: x, labels=["a"])
    with pytest.raises(ClassifierError, match="2 outputs but 1 labels"):
        few.logits(x)
    nn.init.constant_(flat[1].bias, torch.nan)
    with pytest.raises(ClassifierError, match="NaN"):
        expcam.Classifier(flat, transform=lambda image: x).logits(x)


def test_without_labels_a_class_has_its_number() -> None:
    nameless = expcam.Classifier(nn.Identity(), transform=lambda image: torch.zeros(3, 2, 2))
    assert nameless.label_name(7) == "class 7"


def test_what_was_prepared_is_taken_as_it_is_with_the_name_of_its_file(
    bundled: expcam.Classifier,
) -> None:
    prepared = bundled.prepare(EXAMPLES / "cat.jpg")
    assert prepared.source == "cat.jpg"
    assert bundled.prepare(prepared) is prepared
    assert bundled.prepare(prepared.picture).source == ""


@pytest.mark.parametrize(
    ("options", "colour"),
    [
        ({}, (124, 116, 104)),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, (128, 128, 128)),
        ({"mean": (0.0, 0.2, 1.0)}, (0, 51, 255)),
    ],
)
def test_the_mean_colour_is_the_classifiers_own(
    options: dict[str, tuple[float, ...]], colour: tuple[int, int, int]
) -> None:
    module = nn.Identity()
    classifier = expcam.Classifier(module, lambda image: torch.zeros(3, 4, 4), **options)  # type: ignore[arg-type]
    assert classifier.prepare(torch.ones(3, 4, 4)).mean_colour == colour


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_in_another_floating_dtype_is_run_in_it(dtype: torch.dtype) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classifier = expcam.Classifier(module.to(dtype), lambda image: torch.zeros(3, 8, 8))
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    logits = classifier.logits(x)
    assert classifier.dtype == dtype
    assert logits.dtype == torch.float32
    assert torch.equal(logits, module(x.to(dtype)).float())
    logits[:, 1].sum().backward()
    assert x.grad is not None
    assert bool(x.grad.any())


def test_a_module_without_parameters_is_run_in_the_dtype_of_its_buffers() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12, affine=False)).double().eval()
    classifier = expcam.Classifier(module, lambda image: torch.zeros(3, 2, 2))
    assert classifier.logits(torch.rand(1, 3, 2, 2)).dtype == torch.float32


def findings(bias: float, *last: nn.Module) -> nn.Module:
    """A detector none of whose classes is there without content, if its bias is negative."""
    module = RedDetector()
    nn.init.constant_(module.fc.bias, bias)
    return nn.Sequential(module, *last).eval()


def test_classes_that_say_nothing_of_nothing_are_findings() -> None:
    x = red_square()
    with pytest.warns(ExpcamWarning, match="says none of its classes .* give it multi_label=True"):
        assert expcam.Classifier(findings(-1)).is_multi_label(x)
    for classifier in (
        expcam.Classifier(findings(-0.4)),
        expcam.Classifier(findings(-1), multi_label=False),
        expcam.Classifier(findings(-1, nn.Softmax(1))),
    ):
        assert not classifier.is_multi_label(x)
    many = nn.Sequential(nn.Flatten(), nn.Linear(3072, 201)).eval()
    nn.init.constant_(many[1].bias, -1)
    assert not expcam.Classifier(many).is_multi_label(x)
    sigmoid = expcam.Classifier(findings(1, nn.Sigmoid()))
    assert sigmoid.is_multi_label(x)
    contradictory = expcam.Classifier(findings(1, nn.Softmax(1)), multi_label=True)
    contradictory.logits(x[None])
    with pytest.raises(ClassifierError, match="cannot be multi-label: it ends in a softmax"):
        contradictory.is_multi_label(x)


def test_numbers_too_large_for_half_precision_are_named() -> None:
    module = RedDetector().half()
    nn.init.constant_(module.fc.bias, 60000)
    with pytest.raises(ClassifierError, match="infinite logits in float16; try it in float32"):
        expcam.Classifier(module).logits(10000 * red_square()[None])
