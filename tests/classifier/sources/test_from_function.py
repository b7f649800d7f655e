from pathlib import Path

import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.sources.from_function import REFERENCE, called
from expcam.errors import ClassifierError

SOURCE = """
import torch
import expcam


def build():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 3)


READY = build()


def whole():
    return expcam.Classifier(build(), None, ["no", "yes"], name="mine")


def number():
    return 7


def broken():
    raise KeyError("weights")
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory."""
    (tmp_path / "own_code_of_a_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)


def test_functions_classes_and_what_is_there_already(own_code: None) -> None:
    assert isinstance(called("own_code_of_a_test:build"), nn.Sequential)
    assert isinstance(called("own_code_of_a_test:Net"), nn.Linear)
    assert called("own_code_of_a_test:READY") is called("own_code_of_a_test:READY")
    assert isinstance(called("own_code_of_a_test:whole"), expcam.Classifier)
    assert isinstance(called("torch.nn:Identity"), nn.Identity)


def test_as_a_model(own_code: None, tmp_path: Path) -> None:
    classifier = expcam.load_classifier("own_code_of_a_test:build", labels=["no", "yes"])
    assert classifier.label_name(1) == "yes"
    assert classifier.name == "Sequential"
    trained = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    own = expcam.load_classifier("own_code_of_a_test:whole", tmp_path / "w.pt", device="cpu")
    assert (own.name, own.labels) == ("mine", ("no", "yes"))
    assert torch.equal(own.logits(torch.ones(1, 3, 2, 2)), trained(torch.ones(1, 3, 2, 2)))
    with pytest.raises(ClassifierError, match="its transform and labels: give none beside it"):
        expcam.load_classifier("own_code_of_a_test:whole", labels=["a", "b"])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:build", "cannot import `no_such_module`: ModuleNotFoundError"),
        ("own_code_of_a_test:biuld", "no `biuld` in `own_code_of_a_test`; did you mean build"),
        ("own_code_of_a_test:number", "gives int, not a torch.nn.Module or an expcam.Classifier"),
        ("own_code_of_a_test:broken", r"broken\(\) fails: KeyError: 'weights'"),
    ],
)
def test_what_cannot_be_called(reference: str, message: str, own_code: None) -> None:
    with pytest.raises(ClassifierError, match=message):
        called(reference)


def test_what_is_a_reference() -> None:
    for name in ("my_model:build", "a.b.c:Net"):
        assert REFERENCE.fullmatch(name)
    for name in ("resnet18", "hf_hub:timm/resnet18", "timm/local-dir:x", "C:\\folder", "a:b:c"):
        assert not REFERENCE.fullmatch(name)
