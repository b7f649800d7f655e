from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import nn
from torchvision.transforms._presets import ImageClassification

import expcam
from expcam.classifier.sources import from_timm
from expcam.errors import ClassifierError

TINY = "test_efficientnet"


def tiny(**options: Any) -> nn.Module:
    module: nn.Module = timm.create_model(TINY, **options).eval()
    return module


def same(first: expcam.Classifier, second: nn.Module) -> bool:
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        return torch.allclose(first.logits(x), second(x), atol=1e-5)


def test_a_folder_that_timm_saved(tmp_path: Path) -> None:
    module = tiny(num_classes=3)
    save_for_hf(
        module, tmp_path, {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "Apple"}}
    )
    classifier = expcam.load_classifier(f"timm/local-dir:{tmp_path}", device="cpu")
    assert same(classifier, module)
    assert classifier.labels == ("Apple", "b", "c")
    with pytest.raises(ClassifierError, match="cannot load model `timm/local-dir:"):
        expcam.load_classifier(f"timm/local-dir:{tmp_path / 'none'}", device="cpu")


def test_weights_from_a_file_by_name(tmp_path: Path) -> None:
    module = tiny(num_classes=5)
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "w.pth.tar")
    names = ["a", "b", "c", "d", "e"]
    classifier = expcam.load_classifier(
        f"timm/{TINY}", tmp_path / "w.pth.tar", labels=names, device="cpu"
    )
    assert same(classifier, module)
    assert classifier.name == TINY
    assert classifier.label_name(4) == "e"


@pytest.mark.parametrize("name", [f"timm/{TINY}", "hf_hub:someone/tiny", "timm/hf_hub:me/tiny"])
def test_files_in_the_hubs_cache_need_no_network(
    name: str, tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny()
    save_for_hf(module, tmp_path, {}, safe_serialization=True)
    monkeypatch.setattr(from_timm, "_cached", lambda _repository, file: tmp_path / file)
    assert same(expcam.load_classifier(name, device="cpu"), module)


@pytest.mark.parametrize("name", ["timm/resnet18", "hf_hub:timm/resnet18.a1_in1k"])
def test_without_a_network_it_is_said_at_once(name: str, no_network: None) -> None:
    with pytest.raises(ClassifierError, match=r"cannot be downloaded .no network: .* the default"):
        expcam.load_classifier(name)


def test_names_that_timm_lacks() -> None:
    with pytest.raises(ClassifierError, match="`timm/resnet19`; did you mean timm/resnet18"):
        expcam.load_classifier("timm/resnet19")
    with pytest.raises(ClassifierError, match=r"`timm/resnet18.none`: Invalid pretrained tag"):
        expcam.load_classifier("timm/resnet18.none")
    with pytest.raises(ClassifierError, match="`convnext_atto`; timm has one: timm/convnext_atto"):
        expcam.load_classifier("convnext_atto")


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_the_transform_is_timms(name: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(name)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    image = Image.fromarray(pixels).resize((350, 250))
    usage = from_timm.usage(module)
    assert isinstance(usage.transform, ImageClassification)
    assert torch.equal(
        usage.transform(image), create_transform(**resolve_model_data_config(module))(image)
    )


def test_transforms_that_are_no_preset_are_taken_as_they_are() -> None:
    module = tiny()
    module.pretrained_cfg["crop_mode"] = "squash"
    usage = from_timm.usage(module)
    assert not isinstance(usage.transform, ImageClassification)
    classifier = expcam.load_classifier(module)
    side = usage.transform(Image.new("RGB", (70, 50))).shape[-1]
    white = classifier.prepare(Image.new("RGB", (70, 50), "white"))
    assert white.picture.shape == (side, side, 3)
    assert white.picture.min() == 255  # mean and standard deviation are known


def test_labels_follow_the_number_of_classes() -> None:
    def labels(classes: int) -> tuple[str, ...] | None:
        return from_timm.usage(tiny(num_classes=classes)).labels

    thousand, more = labels(1000), labels(21841)
    assert thousand is not None
    assert (len(thousand), thousand[281]) == (1000, "tabby")
    assert more is not None
    assert len(more) == 21841
    assert "giant panda" in more
    assert labels(7) is None


def test_a_module_of_timms_brings_its_transform() -> None:
    classifier = expcam.load_classifier(tiny(num_classes=3))
    config = resolve_model_data_config(classifier.module)
    assert classifier.prepare(Image.new("RGB", (300, 300))).input.shape == config["input_size"]
