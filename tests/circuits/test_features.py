from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import expcam
from expcam.circuits.features import activation_map, top_crops
from expcam.errors import ClassifierError, OptionError
from tests.circuits.blocks import COLOURS, Attention
from tests.helpers import EXAMPLES, RedDetector, red_square


def test_a_map_shows_where_a_channel_fires() -> None:
    classifier = expcam.Classifier(RedDetector().eval(), transform=lambda image: red_square())
    fires = activation_map(classifier, red_square(), ("colour", 0))
    assert fires.shape == (32, 32)
    # Red 2 in the square of rows 4 to 11 and columns 16 to 23, nothing elsewhere.
    assert fires[4:12, 16:24] == pytest.approx(np.full((8, 8), 2.0))
    assert fires.sum() == pytest.approx(2 * 64)
    # Behind the halving the map is upsampled: the same place, softer edges.
    later = activation_map(classifier, red_square(), ("mix", 0))
    assert later[6:10, 18:22] == pytest.approx(np.full((4, 4), 2.0))
    assert later[:, :12].max() == 0


def test_crops_are_of_what_a_channel_looks_at(tmp_path: Path) -> None:
    def transform(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 127.5

    classifier = expcam.Classifier(RedDetector().eval(), transform=transform)
    pictures = np.zeros((3, 32, 32, 3), np.uint8)
    pictures[1, 20:24, 8:12, 0] = 255
    pictures[2, 4:8, 24:28, 0] = 100
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    crops = top_crops(classifier, ("mix", 0), paths, count=2)
    assert [crop.image for crop in crops] == [1, 2]
    assert crops[0].activation == pytest.approx(2)
    # A unit of `mix` sees two by two pixels, here the first of the red square.
    assert crops[0].box == (8, 20, 10, 22)
    assert crops[0].picture.shape == (2, 2, 3)
    assert crops[0].fires.shape == (2, 2)
    assert crops[0].fires.max() == pytest.approx(1, abs=0.3)


def test_tokens_have_a_map_without_the_class_token() -> None:
    classifier = expcam.Classifier(Attention().eval(), transform=lambda image: image)
    x = torch.zeros(3, 2, 2)
    x[0, 1, 0] = 5
    assert activation_map(classifier, x, ("embed", 0))[1, 0] == 5
    assert activation_map(classifier, x, ("attention", 0)) == pytest.approx(np.full((2, 2), 0.625))
    neuron = activation_map(classifier, x, ("up", 0))
    assert neuron[1, 0] == pytest.approx(5 + 1.25)


def test_what_has_no_map() -> None:
    classifier = expcam.Classifier(RedDetector().eval(), transform=lambda image: red_square())
    for node, message in (
        (("nose", 0), "no layer `nose`; there are: colour, mix, fc"),
        (("mix", 2), "no channel 2: it has 0 to 1"),
        (("fc", 0), "has no map over the image"),
    ):
        with pytest.raises(OptionError, match=message):
            activation_map(classifier, red_square(), node)
    with pytest.raises(OptionError, match="at least one image"):
        top_crops(classifier, ("mix", 0), [])


def test_a_real_channel(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    nodes = cat_circuit.nodes[cat_circuit.nodes["layer"] == "layer3.1.conv2"]
    best = nodes.loc[nodes["relevance"].idxmax()]
    node = (best["layer"], int(best["channel"]))
    photos = [EXAMPLES / "coffee.jpg", EXAMPLES / "cat.jpg"]
    crops = top_crops(bundled, node, photos)
    assert {crop.image for crop in crops} == {0, 1}
    assert crops[0].activation >= crops[1].activation
    assert all(min(crop.picture.shape[:2]) > 20 for crop in crops)
    assert activation_map(bundled, photos[1], node).max() > 0


def test_a_float64_classifier(micro: expcam.Classifier) -> None:
    micro.module.double()
    # conv1's second channel is 4 in every pixel of the image (1, 2, 3).
    fires = activation_map(micro, COLOURS[0], ("conv1", 1))
    assert fires == pytest.approx(np.full((2, 2), 4.0), rel=1e-4)
    (crop,) = top_crops(micro, ("conv1", 1), [COLOURS[0]])
    assert crop.activation == pytest.approx(4, rel=1e-4)


def test_inference_mode(micro: expcam.Classifier) -> None:
    with torch.inference_mode(), pytest.raises(ClassifierError, match="activation_map needs"):
        activation_map(micro, COLOURS[0], ("conv1", 1))
    with torch.inference_mode(), pytest.raises(ClassifierError, match="top_crops needs"):
        top_crops(micro, ("conv1", 1), [COLOURS[0]])
