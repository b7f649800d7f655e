import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import expcam
from expcam.errors import ClassifierError
from tests.helpers import EXAMPLES, keeping_everything


@pytest.fixture
def vit() -> ViTForImageClassification:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, num_hidden_layers=2, num_attention_heads=2, hidden_size=16,
        intermediate_size=32, id2label={0: "no", 1: "red", 2: "blue"},
        label2id={"no": 0, "red": 1, "blue": 2},
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


@pytest.fixture
def folder(vit: ViTForImageClassification, tmp_path: Path) -> Path:
    """What transformers saves of a model and its processor."""
    vit.save_pretrained(tmp_path / "tiny")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder(vit: ViTForImageClassification, folder: Path, no_network: None) -> None:
    classifier = expcam.load_classifier(f"hf/{folder}", device="cpu")
    assert (classifier.name, classifier.labels) == ("tiny", ("no", "red", "blue"))
    prepared = classifier.prepare(EXAMPLES / "cat.jpg")
    assert prepared.input.shape == (3, 32, 32)
    assert prepared.mean_colour == (128, 128, 128)  # the processor's mean is 0.5
    with torch.no_grad():
        expected = vit(prepared.input[None]).logits
        assert torch.equal(classifier.logits(prepared.input[None]), expected)
    circuit = expcam.read_circuit(
        classifier, keeping_everything(classifier, prepared.input, int(expected.argmax()))
    )
    assert circuit.graph.graph["wiring"] == "exact"


def test_weights_of_other_classes(folder: Path, tmp_path: Path) -> None:
    config = ViTConfig.from_pretrained(folder, num_labels=5)
    trained = ViTForImageClassification(config).eval()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "last.ckpt")
    classifier = expcam.load_classifier(f"hf/{folder}", tmp_path / "last.ckpt", device="cpu")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(classifier.logits(x), trained(x).logits)
    assert classifier.labels is None


def test_what_cannot_be_had(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClassifierError, match=r"cannot be downloaded .no network"):
        expcam.load_classifier("hf/nobody/nothing")
    with pytest.raises(ClassifierError, match="no such folder"):
        expcam.load_classifier(f"hf/{tmp_path / 'none'}")
    with pytest.raises(ClassifierError, match="is no image classifier of transformers"):
        expcam.load_classifier(f"hf/{tmp_path}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ClassifierError, match=r"pip install 'expcam\[transformers\]'"):
        expcam.load_classifier("hf/microsoft/resnet-18")
