import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import v2

import expcam
from expcam.classifier.transforms import Normalisation, as_channels, normalisation_of, transformed
from expcam.errors import ImageError

SOLID = Image.new("RGB", (8, 6), (255, 0, 51))


def tensor(image: Image.Image) -> Tensor:
    found: Tensor = transforms.ToTensor()(image)
    return found


class Named:
    """Takes and gives arrays by name."""

    def __call__(self, *, image: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {"image": image / np.float32(255)}


Named.__module__ = "albumentations.core"


@pytest.mark.parametrize(
    "transform",
    [
        tensor,
        lambda image: tensor(image)[None],
        lambda image: tensor(image).numpy(),
        lambda image: np.asarray(image) / 255,
        lambda image: {"pixel_values": [tensor(image).numpy()], "mask": 1},
        lambda image: {"anything": tensor(image)[None]},
        Named(),
    ],
)
def test_whatever_a_transform_gives_has_its_channels_first(transform: object) -> None:
    x = transformed(transform, SOLID)  # type: ignore[arg-type]
    assert x.shape == (3, 6, 8)
    assert x[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_a_grey_picture_and_what_is_none() -> None:
    assert as_channels(np.zeros((7, 5))).shape == (1, 7, 5)
    assert as_channels(np.zeros((7, 5, 1))).shape == (1, 7, 5)
    with pytest.raises(ImageError, match=r"must give a tensor \(channels, H, W\), it gave str"):
        as_channels("picture")
    with pytest.raises(ImageError, match=r"the transform fails on the image \(RGB\): division"):
        transformed(lambda image: 1 / 0, SOLID)


@pytest.mark.parametrize(
    ("transform", "stated", "expected"),
    [
        (None, {}, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        (transforms.Compose([transforms.Normalize((0.1,), (0.3,))]), {}, ((0.1,), (0.3,))),
        (v2.Compose([v2.Compose([v2.Normalize([0.1], [0.3])])]), {}, ((0.1,), (0.3,))),
        (transforms.Normalize((0.1,), (0.3,)), {"mean": (0.2,)}, ((0.2,), (0.3,))),
        (None, {"mean": (0.2,)}, ((0.2,), (1.0,))),
        (None, {"std": (0.2,)}, ((0.0,), (0.2,))),
    ],
)
def test_the_normalisation_is_the_one_stated_or_the_transforms(
    transform: object, stated: dict[str, tuple[float, ...]], expected: object
) -> None:
    found = normalisation_of(transform, stated.get("mean"), stated.get("std"))  # type: ignore[arg-type]
    assert (found.mean, found.std) == expected


def test_pictures_of_any_number_of_channels() -> None:
    grey = Normalisation((0.5,), (0.5,))
    one = torch.tensor([[[-1.0, 0.0, 1.0]]])
    assert grey.picture(one)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert grey.colour_of_zero(one) == (128, 128, 128)
    # Nobody knows what colours these are: their own range is shown, and 0 lies in it.
    five = torch.stack([one[0] * each for each in (1, 2, 3, 4, -4)])
    unknown = Normalisation((0.5,) * 3, (0.5,) * 3)
    assert unknown.picture(five)[0, 2].tolist() == [159, 191, 223]
    assert unknown.colour_of_zero(five) == (128, 128, 128)
    assert unknown.picture(one.expand(2, -1, -1))[0, 0].tolist() == [0, 0, 0]


def grey_classifier(transform: object) -> expcam.Classifier:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return expcam.Classifier(module, transform)  # type: ignore[arg-type]


def test_a_classifier_of_grey_images_gets_them() -> None:
    plain = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    grey = transforms.Compose([transforms.Grayscale(), plain])
    inputs = [grey_classifier(each).prepare(SOLID).input for each in (plain, grey)]
    assert inputs[0].shape == (1, 6, 8)
    assert torch.equal(*inputs)


def test_without_a_transform_images_are_tensors() -> None:
    classifier = grey_classifier(None)
    x = torch.rand(1, 5, 7)
    assert torch.equal(classifier.prepare(x).input, x)
    assert torch.equal(classifier.prepare(x.numpy()).input, x)
    with pytest.raises(ImageError, match="has no transform, so it takes normalised tensors"):
        classifier.prepare(SOLID)
