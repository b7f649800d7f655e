from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

import expcam
from expcam.classifier.sources import from_torchvision
from expcam.errors import ClassifierError


def test_every_classifier_has_a_name() -> None:
    names = from_torchvision.names()
    assert len(names) >= 80
    assert {"resnet18", "vit_b_16", "inception_v3"} <= set(names)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_heads_for_training_alone_may_be_in_the_file(auxiliary: bool, tmp_path: Path) -> None:
    trained = get_model(
        "googlenet", weights=None, num_classes=4, aux_logits=auxiliary, init_weights=False
    ).eval()
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    classifier = expcam.load_classifier("googlenet", tmp_path / "w.pth", device="cpu")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(classifier.logits(x), trained(x), atol=1e-5)


def test_weights_that_were_downloaded_before(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ClassifierError, match=r"cannot be downloaded .no network: .* the default"):
        expcam.load_classifier("squeezenet1_1")
    trained = get_model("squeezenet1_1", weights=None)
    file = get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(trained.state_dict(), tmp_path / "hub/checkpoints" / file)
    loaded = expcam.load_classifier("squeezenet1_1", device="cpu")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded.logits(x), trained.eval()(x), atol=1e-5)
    assert loaded.labels is not None
    assert loaded.labels[281] == "tabby"
