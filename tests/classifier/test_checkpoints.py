from pathlib import Path

import pytest
import safetensors.torch
import torch

import expcam
from expcam.classifier.checkpoints import read_state_dict
from expcam.errors import ClassifierError


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = {
        "fc.weight": torch.zeros(10, 512),
        "extra": torch.zeros(1),
    }
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ClassifierError) as caught:
        expcam.load_classifier("resnet18", tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "do not fit model `resnet18`" in message
    assert "1 unexpected (extra…)" in message
    assert "fc.weight (10, 512) instead of (1000, 512)" in message


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_files_that_are_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClassifierError, match="no such weights file"):
        read_state_dict(tmp_path / "none.pt")
    (tmp_path / "w.bin").touch()
    with pytest.raises(ClassifierError, match="must end in"):
        read_state_dict(tmp_path / "w.bin")
    (tmp_path / "w.safetensors").write_text("no tensors")
    with pytest.raises(ClassifierError, match="cannot read weights"):
        read_state_dict(tmp_path / "w.safetensors")
    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ClassifierError, match="more than tensors"):
        read_state_dict(tmp_path / "trap.pt")
    assert capsys.readouterr().out == ""
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ClassifierError, match="no state dict"):
        read_state_dict(tmp_path / "list.pt")
