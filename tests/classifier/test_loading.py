import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import expcam
from expcam.classifier import loading
from expcam.errors import ClassifierError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty torch cache and a network on which nothing answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(loading, "url_answers", lambda url, seconds: False)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/w.pth"
        for connection in taken:
            connection.close()
        server.shutdown(socket.SHUT_RDWR)


def test_a_network_that_swallows_packets_is_given_up_on(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    start = time.monotonic()
    assert not loading.url_answers(silent_server, 1.0)
    assert time.monotonic() - start < 3
    assert loading.PROBE_SECONDS < 5


def test_auto_falls_back_to_the_bundled_classifier_and_says_so(offline: None) -> None:
    with pytest.warns(expcam.ExpcamWarning, match="using the bundled classifier"):
        classifier = expcam.load_classifier()
    assert classifier.name == "bundled"


def test_published_weights_that_cannot_be_had(offline: None) -> None:
    with pytest.raises(ClassifierError, match="cannot be downloaded; give a file with --weights"):
        expcam.load_classifier("squeezenet1_0")


def test_every_torchvision_classifier_has_a_name() -> None:
    names = loading.classifier_names()
    assert len(names) >= 82
    assert {"auto", "bundled", "resnet18", "vit_b_16"} <= set(names)
    with pytest.raises(ClassifierError, match="unknown model `resnet19`; did you mean resnet1"):
        expcam.load_classifier("resnet19")
    with pytest.raises(ClassifierError, match="one of torchvision's"):
        expcam.load_classifier("fcn_zzzz")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
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


def test_options_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="name it"):
        expcam.load_classifier("auto", tmp_path / "w.pt")
    with pytest.raises(ClassifierError, match="comes with its weights"):
        expcam.load_classifier("bundled", tmp_path / "w.pt")
    with pytest.raises(ClassifierError, match="no device `quantum`"):
        expcam.load_classifier("bundled", device="quantum")


def test_your_own_module() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    classifier = expcam.load_classifier(module, labels=["no", "yes"], device="cpu")
    assert classifier.module is module
    assert classifier.name == "Sequential"


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
