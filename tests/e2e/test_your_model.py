"""Every block of `docs/your-model.md` runs as it stands."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models import squeezenet1_1
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import expcam
from expcam import cli
from tests.helpers import EXAMPLES, ROOT

PAGE = (ROOT / "docs" / "your-model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
"""The first line of a block that is a file."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    shutil.copy(EXAMPLES / "coffee.jpg", "photo.jpg")
    for _, code in BLOCKS:
        if named := FILE.match(code):
            Path(named[1]).write_text(code)
    Path("names.txt").write_text("cat\ndog\nbird\n")
    torch.manual_seed(0)
    torch.save(squeezenet1_1(num_classes=3).state_dict(), "fine_tuned.pth")
    small = timm.create_model("mobilenetv3_small_050", num_classes=3)
    torch.save({"epoch": 3, "state_dict": small.state_dict()}, "model_best.pth.tar")
    ViTForImageClassification(
        ViTConfig(
            image_size=32, patch_size=8, num_hidden_layers=1, num_attention_heads=2,
            hidden_size=16, intermediate_size=32, num_labels=3,
        )
    ).save_pretrained("my-vit")  # fmt: skip
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("my-vit")
    from my_model import build  # type: ignore[import-not-found]

    state = {f"model.{name}": value for name, value in build().state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0"}, "last.ckpt")
    return tmp_path


def test_the_page_has_all_ways() -> None:
    assert len(BLOCKS) >= 8
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert all(len(code.strip().splitlines()) <= 10 for _, code in BLOCKS)


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python(code: str, folder: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "your-model.md", "exec"), names)
    made = names.get("classifier") or expcam.load_classifier(names["build"]())  # type: ignore[operator]
    assert isinstance(made, expcam.Classifier)
    x = made.prepare("photo.jpg").input[None]
    logits = made.logits(x)
    assert torch.isfinite(logits).all()
    if made.labels is not None:
        assert logits.shape == (1, len(made.labels))


@pytest.mark.parametrize("line", [c.strip() for language, c in BLOCKS if language == "sh"])
def test_command(
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (cli.DONE, cli.NOT_HOLDING)  # the weights are random
    assert re.search(r"class +(cat|dog|bird)", capsys.readouterr().out)
    assert (folder / "graph.html").stat().st_size > 1e6
