import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import squeezenet1_1

import expcam
from expcam.classifier import loading
from expcam.classifier.sources.names import blueprint_of, classifier_names
from expcam.errors import ClassifierError


def test_names_that_need_no_prefix() -> None:
    names = classifier_names()
    assert names[:2] == ["efficientnet_lite0", "bundled"]
    assert {"resnet18", "vit_b_16"} <= set(names)
    with pytest.raises(ClassifierError, match="unknown model `resnet19`; did you mean resnet1"):
        blueprint_of("resnet19")
    with pytest.raises(ClassifierError, match=r"timm/NAME; hf/NAME-OR-FOLDER; package.module:func"):
        blueprint_of("fcn_zzzz")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    random = expcam.load_classifier("squeezenet1_1", None, device="cpu")
    state = random.module.state_dict()
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file({k: v.half().contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    loaded = expcam.load_classifier("squeezenet1_1", path, device="cpu")
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(loaded.logits(x), random.logits(x), atol=2e-2)
    assert loaded.labels is not None
    assert loaded.labels[281] == "tabby"


@pytest.mark.parametrize("model", ["squeezenet1_1", "bundled"])
def test_the_head_has_as_many_classes_as_the_file(model: str, tmp_path: Path) -> None:
    trained = blueprint_of(model).build(3).eval()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    (tmp_path / "names.json").write_text(json.dumps({"0": "cat", "1": "dog", "2": "bird"}))
    classifier = expcam.load_classifier(
        model, tmp_path / "w.pt", labels=tmp_path / "names.json", device="cpu"
    )
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(classifier.logits(x), trained(x), atol=1e-5)
    assert classifier.labels == ("cat", "dog", "bird")
    unnamed = expcam.load_classifier(model, tmp_path / "w.pt", device="cpu")
    assert unnamed.label_name(2) == "class 2"
    with pytest.raises(ClassifierError, match=f"model `{model}` has 3 classes, not 2"):
        expcam.load_classifier(model, tmp_path / "w.pt", labels=["cat", "dog"])


def test_labels_are_as_many_as_the_classes() -> None:
    random = expcam.load_classifier("squeezenet1_1", None, labels=["no", "yes"], device="cpu")
    assert random.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    with pytest.raises(ClassifierError, match="model `bundled` has 103 classes, not 2"):
        expcam.load_classifier("bundled", labels=["no", "yes"])
    with pytest.raises(ClassifierError, match=r"no such labels file: `names.txt`"):
        expcam.load_classifier("bundled", labels="names.txt")


def test_devices() -> None:
    with pytest.raises(ClassifierError, match="no device `quantum`"):
        expcam.load_classifier("bundled", device="quantum")
    assert loading.resolve_device("cpu") == torch.device("cpu")


def test_your_own_module(tmp_path: Path) -> None:
    module = squeezenet1_1(num_classes=2)
    classifier = expcam.load_classifier(module, labels=["no", "yes"], device="cpu")
    assert classifier.module is module
    assert classifier.name == "SqueezeNet"
    trained = squeezenet1_1(num_classes=2)
    torch.save({"model_state_dict": trained.state_dict()}, tmp_path / "w.pt")
    expcam.load_classifier(module, tmp_path / "w.pt")
    assert torch.equal(module.classifier[1].weight, trained.classifier[1].weight)


def test_your_own_module_stays_where_it_is_unless_a_device_is_named() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).to("meta")
    assert expcam.load_classifier(module).device.type == "meta"
    here = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    assert expcam.load_classifier(here, device="cpu").module is here
    with pytest.raises(ClassifierError, match="no device `quantum`"):
        expcam.load_classifier(here, device="quantum")


def test_real_weights_know_a_macaque(shared: Path) -> None:
    photo = shared / "data/photos/n02487347_macaque.JPEG"
    for model in ("resnet18", "squeezenet1_0"):
        classifier = expcam.load_classifier(model, shared / f"models/{model}.safetensors")
        label = int(classifier.logits(classifier.prepare(photo).input[None]).argmax())
        assert classifier.label_name(label) == "macaque"
