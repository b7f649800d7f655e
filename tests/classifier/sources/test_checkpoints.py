import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import expcam
from expcam.classifier.sources.checkpoints import fit_weights, other_head, read_checkpoint
from expcam.errors import ClassifierError

State = dict[str, Tensor]


def network(value: float = 0.0, classes: int = 2) -> nn.Module:
    """A convolution, a batch norm and a head, all of whose numbers are ``value``."""
    module = nn.Sequential()
    module.add_module("conv", nn.Conv2d(3, 4, 1))
    module.add_module("norm", nn.BatchNorm2d(4))
    module.add_module("head", nn.Linear(4, classes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module.eval()


def state(value: float, prefix: str = "") -> State:
    return {prefix + name: each for name, each in network(value).state_dict().items()}


def head_after(content: object, path: Path, module: nn.Module | None = None) -> float:
    """What a head's weight is once a file with that content was loaded."""
    torch.save(content, path)
    module = module or network()
    fit_weights(module, path, "network")
    (weight,) = (each for name, each in module.named_parameters() if name.endswith("head.weight"))
    return weight[0, 0].item()


FRAMEWORKS: dict[str, Callable[[], object]] = {
    "plain": lambda: state(1),
    "reference scripts": lambda: {"model": state(1), "optimizer": {"state": {}}, "epoch": 3},
    "torch's tutorial": lambda: {"model_state_dict": state(1), "optimizer_state_dict": {}},
    "data parallel": lambda: {"state_dict": state(1, "module."), "arch": "resnet18"},
    "compiled": lambda: state(1, "_orig_mod."),
    "compiled and parallel": lambda: state(1, "module._orig_mod."),
    "Lightning": lambda: {
        "state_dict": state(1, "model.") | {"loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4, 3, 1, 1)}}}],
    },
    "Lightning, compiled": lambda: {"state_dict": state(1, "net._orig_mod.")},
    "DeepSpeed": lambda: {"module": state(1), "global_steps": 7},
    "nested": lambda: {"trainer": {"model": {"weights": state(1)}}},
    "averaged alone": lambda: {"state_dict_ema": state(1)},
    "stochastic weight averaging": lambda: AveragedModel(network(1)).state_dict(),
    "profiled": lambda: state(1) | {"total_ops": torch.zeros(1), "conv.total_ops": torch.zeros(1)},
    "old batch norms": lambda: {k: v for k, v in state(1).items() if "num_batches" not in k},
    "half precision": lambda: {k: v.half() for k, v in state(1).items()},
    "twice the same": lambda: {"state_dict": state(1), "best": state(1)},
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_checkpoints_of_training_frameworks(name: str, tmp_path: Path) -> None:
    assert head_after(FRAMEWORKS[name](), tmp_path / "w.ckpt") == 1


@pytest.mark.parametrize("name", ["w.pth.tar", "epoch=3-step=12.ckpt", "pytorch_model.bin", "w"])
def test_a_file_is_known_by_what_is_in_it(name: str, tmp_path: Path) -> None:
    assert head_after(state(1), tmp_path / name) == 1
    safetensors.torch.save_file(state(2), tmp_path / name)
    module = network()
    fit_weights(module, tmp_path / name, "network")
    assert module.get_parameter("head.weight")[0, 0].item() == 2


def test_files_of_an_old_torch(tmp_path: Path) -> None:
    torch.save(state(1), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    module = network()
    fit_weights(module, tmp_path / "w.pth", "network")
    assert module.get_parameter("head.weight")[0, 0].item() == 1


class Compiled(nn.Module):
    """Named as `torch.compile` names its own, which takes seconds to import."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


def test_wrapped_modules_take_plain_files(tmp_path: Path) -> None:
    wrapped = [
        nn.DataParallel(network()),
        Compiled(network()),
        nn.Sequential(nn.Identity(), network()),  # a normalisation before it
    ]
    for module in wrapped:
        assert head_after(state(1), tmp_path / "w.pt", module) == 1
        assert head_after(state(2, "model."), tmp_path / "w.pt", module) == 2


def test_the_average_of_weights_is_taken_and_said_so(tmp_path: Path) -> None:
    for content in (
        {"state_dict": state(1), "state_dict_ema": state(2)},
        {"model": state(1), "model_ema": state(2, "module.")},
        {"state_dict": state(1, "model.") | state(2, "ema_model.")},
    ):
        with pytest.warns(expcam.ExpcamWarning, match=r"`w.pt` holds several weights: .*ema"):
            assert head_after(content, tmp_path / "w.pt") == 2


def test_weights_of_which_nobody_can_tell_which_are_meant(tmp_path: Path) -> None:
    content = state(1, "student.") | state(2, "teacher.")
    with pytest.raises(ClassifierError, match="`student`, `teacher`; save those that are meant"):
        head_after(content, tmp_path / "w.pt")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)
        self.two.weight = self.one.weight


def test_tied_tensors_may_be_in_the_file_once(tmp_path: Path) -> None:
    trained, fresh = Tied(), Tied()
    safetensors.torch.save_model(trained, str(tmp_path / "w.safetensors"))
    fit_weights(fresh, tmp_path / "w.safetensors", "tied")
    assert torch.equal(fresh.two.weight, trained.one.weight)
    assert fresh.two.weight is fresh.one.weight


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    given = state(1) | {"extra": torch.zeros(1)}
    del given["head.bias"], given["conv.bias"]
    with pytest.raises(ClassifierError) as caught:
        head_after(given, tmp_path / "w.pt")
    message = str(caught.value)
    assert "do not fit model `network`" in message
    assert "2 missing (conv.bias…), 1 unexpected (extra…)" in message
    with pytest.raises(ClassifierError, match=r"head.weight \(3, 4\) instead of \(2, 4\)"):
        head_after(network(classes=3).state_dict(), tmp_path / "w.pt")


def test_a_module_is_left_alone_by_what_does_not_fit(tmp_path: Path) -> None:
    module = network(5)
    with pytest.raises(ClassifierError):
        head_after(network(1, classes=3).state_dict(), tmp_path / "w.pt", module)
    assert all(bool((each == 5).all()) for each in module.parameters())


def test_the_number_of_classes_is_read_off_the_head() -> None:
    module = network()
    assert other_head(module, state(1)) is None
    assert other_head(module, dict(network(classes=7).state_dict())) == 7
    wider = {"head.weight": torch.zeros(7, 5), "head.bias": torch.zeros(7)}
    assert other_head(module, wider) is None  # no head for these features
    two = {"head.weight": torch.zeros(7, 4), "conv.weight": torch.zeros(5, 3, 1, 1)}
    assert other_head(module, two) is None


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("unpickled",))


def test_nothing_is_unpickled_and_it_is_said_how_to_save(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {
        "builtins.print": {"a": Trap()},
        "argparse.Namespace": {"state_dict": state(1), "args": argparse.Namespace(lr=0.1)},
        "scalar": {"state_dict": state(1), "best": np.float64(0.9)},
        "torch.nn": network(),
    }
    for what, content in contents.items():
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(ClassifierError, match="more than tensors") as caught:
            read_checkpoint(tmp_path / "w.pt")
        assert what in str(caught.value)
        assert 'torch.save(model.state_dict(), "weights.pt")' in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="no such weights file"):
        read_checkpoint(tmp_path / "none.pt")
    for content in ("", "hello", "no tensors at all"):
        (tmp_path / "w.pt").write_text(content)
        with pytest.raises(ClassifierError, match=r"neither safetensors nor written by torch.save"):
            read_checkpoint(tmp_path / "w.pt")
    torch.save(state(1), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-600])
    with pytest.raises(ClassifierError, match=r"half.pt"):
        read_checkpoint(tmp_path / "half.pt")
    for content in ([1, 2], {"epoch": 3}):
        torch.save(content, tmp_path / "list.pt")
        with pytest.raises(ClassifierError, match="no state dict"):
            read_checkpoint(tmp_path / "list.pt")


def test_a_torchscript_program_is_named_as_one(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ClassifierError, match=r"TorchScript program: load it with torch.jit.load"):
        read_checkpoint(tmp_path / "w.pt")
