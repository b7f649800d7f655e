"""The command on real photographs, in a process of its own where that can matter."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

import expcam
from expcam import cli
from expcam.graphs.finding import Finding
from tests.helpers import EXAMPLES

Result = subprocess.CompletedProcess[str]
Command = Callable[..., Result]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process, which has loaded torch already."""

    def here(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["expcam-circuit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(sys.argv, ended.value.code, printed.out, printed.err)

    return here


def run(*arguments: object) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "expcam", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "no_proxy": "*"},
    )


def test_help_teaches_and_needs_no_torch() -> None:
    result = run("--help")
    assert result.returncode == 0
    for word in (
        *("--weights", "--instances", "bundled", "Exit codes", "graph.html", "gradcam"),
        *("3 done, but", "half of the 8 unseen ones", 'says "mostly"'),
    ):
        assert word in " ".join(result.stdout.split())
    code = (
        "import sys; sys.argv = ['expcam-circuit', '--help']\n"
        "from expcam.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'captum' not in sys.modules"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )


def test_a_photograph_to_a_page(tmp_path: Path) -> None:
    out = tmp_path / "graph.html"
    result = run(EXAMPLES / "coffee.jpg", "--out", out, "--model", "bundled")
    assert result.returncode == 0, result.stderr
    for word in (
        "class        espresso",
        "mask",
        "label kept",
        "discovered (gates) against rest",
        "wrong class  at least",
        "published readout: a hypothesis",
        "claims       ",
        "tested       all others at zero: ",
        "Grad-CAM",
        str(out),
    ):
        assert word in result.stdout
    assert out.stat().st_size < 12e6
    assert "Traceback" not in result.stderr


def test_findings_as_json(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "c.json"
    result = command(
        EXAMPLES / "cat.jpg", "--out", out, "--model", "bundled", "--json", "--baselines", "none",
        "--circuit", "readout", "--top-k", 4, "--no-verify",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["kept"] is True
    assert found["image"] == "cat.jpg"
    assert found["label_name"] == "cat"
    assert [row["method"] for row in found["methods"]] == ["expcam"]
    circuit = expcam.Circuit.load(out)
    assert circuit.nodes.groupby("layer").size().max() <= 4
    assert found["nodes"] == len(circuit.nodes)
    assert found["circuit"]["method"] == "readout"


def test_a_mask_that_does_not_keep_the_label_is_said_so(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "g.html"
    result = command(
        EXAMPLES / "cat.jpg", "--out", out, "--model", "bundled", "--target", "school bus",
        "--area", 0.001, "--baselines", "none", "--circuit", "readout", "--no-verify",
    )  # fmt: skip
    assert result.returncode == 3  # of four pixels none is a school bus
    assert "label kept   NO" in result.stdout
    assert "the whole image has another label" in result.stdout
    assert "No mask was found" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("robustness", "code", "text"),
    [
        (1.0, 0, "label kept   yes; on 8 of 8 unseen backgrounds"),
        (0.875, 0, "label kept   mostly: on 7 of 8 unseen backgrounds"),
        (0.375, 3, "label kept   NO: on the mean colour, but only on 3 of 8 unseen backgrounds"),
    ],
)
def test_a_robust_mask_must_hold_on_most_unseen_backgrounds(
    robustness: float,
    code: int,
    text: str,
    cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
    cat_table: pd.DataFrame,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = dataclasses.replace(cat, kept=True, robustness=robustness)
    found = Finding(explanation=mask, circuit=cat_circuit, table=cat_table)
    monkeypatch.setattr(cli, "find", lambda *_arguments, **_options: found)
    result = command(EXAMPLES / "cat.jpg", "--out", tmp_path / "g.json", "--model", "bundled")
    assert result.returncode == code
    assert text in result.stdout


def test_the_image_is_decoded_once_and_no_global_state_is_left(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    usual = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or usual(file))
    result = command(
        EXAMPLES / "cat.jpg", "--out", tmp_path / "g.csv", "--model", "bundled",
        "--objective", "sufficient", "--baselines", "gradcam", "--circuit", "readout",
        "--no-verify",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert opened == [EXAMPLES / "cat.jpg"]
    assert float(torch.full((4,), 2.0**-126).mul(0.25).sum()) > 0  # denormals are numbers still


def test_what_is_asked_of_the_mask(tmp_path: Path, command: Command) -> None:
    result = command(
        EXAMPLES / "coffee.jpg", "--out", tmp_path / "g.json", "--model", "bundled", "--area", 0.05,
        "--contrast", "teapot", "--objective", "sufficient", "--baselines", "none", "--json",
        "--circuit", "readout", "--no-verify",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["area"] == round(0.05 * 64 * 64) / 64**2
    assert found["objective"] == "sufficient"
    assert isinstance(found["contrast"], int)
    assert found["kept"] is True


def mistakes(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    cat, out = EXAMPLES / "cat.jpg", ["--out", tmp_path / "g.html"]
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "half.jpg").write_bytes(cat.read_bytes()[:2000])
    (tmp_path / "w.pt").write_text("hello")
    bundled = ["--model", "bundled"]
    return {
        "no file": ([tmp_path / "none.jpg", *out, *bundled], "no such file"),
        "no image": ([tmp_path / "text.jpg", *out, *bundled], "not an image"),
        "truncated": ([tmp_path / "half.jpg", *out, *bundled], "truncated"),
        "model": ([cat, *out, "--model", "resnet19"], "unknown model `resnet19`; did you mean"),
        "weights": ([cat, *out, "--model", "resnet18", "--weights", tmp_path / "w.pt"], "w.pt"),
        "labels": ([cat, *out, *bundled, "--labels", tmp_path / "text.jpg"], "103 classes, not 1"),
        "class": ([cat, *out, *bundled, "--target", "penguim"], "did you mean penguin"),
        "folder": ([cat, "--out", tmp_path / "no/g.html", *bundled], "no such folder"),
        "suffix": ([cat, "--out", tmp_path / "g.bmp", *bundled], "suffix must be one of .html"),
        "baseline": ([cat, *out, *bundled, "--baselines", "lime"], "unknown baseline `lime`"),
        "objective": ([cat, *out, *bundled, "--objective", "best"], "unknown objective `best`"),
        "area": ([cat, *out, *bundled, "--area", "1.5"], "area 1.5 is out of range"),
        "contrast": ([cat, *out, *bundled, "--contrast", "cat"], "cannot be compared to itself"),
        "instances": (
            [cat, *out, *bundled, "--instances", "--area", "0.1"],
            "--instances and --box go with none",
        ),
        "seed": ([cat, *out, *bundled, "--seed", "-3"], "seed -3 is out of range"),
        "number": ([cat, *out, *bundled, "--top-k", "many"], "--top-k"),
        "top-k": ([cat, *out, *bundled, "--top-k", "0"], "at least 1"),
        "circuit": ([cat, *out, *bundled, "--circuit", "best"], "unknown circuit `best`"),
        "reference": (
            [cat, *out, *bundled, "--reference", tmp_path / "no"],
            "no such folder of photographs",
        ),
        "option": ([cat, *out, "--modle", "bundled"], "--modle"),
        "device": ([cat, *out, *bundled, "--device", "quantum"], "no device `quantum`"),
        "no out": ([cat], "--out"),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("no file", "no image", "truncated", "model", "weights", "class", "folder", "suffix"),
        *("objective", "area", "contrast", "instances", "labels"),
        *("baseline", "seed", "number", "top-k", "option", "device", "no out"),
        *("circuit", "reference"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    name: str, tmp_path: Path, command: Command
) -> None:
    arguments, message = mistakes(tmp_path)[name]
    result = command(*arguments)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert result.stdout == ""
    assert not (tmp_path / "g.html").exists()


def test_a_mistake_ends_the_process_without_a_traceback(tmp_path: Path) -> None:
    result = run(tmp_path / "none.jpg", "--out", tmp_path / "g.html", "--model", "bundled")
    assert result.returncode == 2
    assert result.stderr.strip() == f"expcam-circuit: no such file: `{tmp_path / 'none.jpg'}`"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into Linux's /proc")
def test_interrupted_it_ends_cleanly(tmp_path: Path) -> None:
    # What a script runs in its background ignores the signal, and so would the command.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "expcam", str(EXAMPLES / "cat.jpg"), "--out", "g.html",
         "--model", "bundled"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    loaded = Path(f"/proc/{process.pid}/maps")
    try:
        # Torch is loaded when the work has begun.
        while "libtorch" not in loaded.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted; no half-written file is left" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_what_the_demo_shows_is_right_and_sure(tmp_path: Path) -> None:
    result = run(
        EXAMPLES / "panda.jpg", "--out", tmp_path / "g.json", "--json", "--baselines", "none",
        "--circuit", "readout", "--no-verify",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["label_name"] == "giant panda"
    assert found["confidence"] > 0.9
    assert found["kept"]
    assert found["area"] < 0.15


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", ["resnet18", "squeezenet1_0"])
def test_real_weights_on_a_real_photograph(model: str, shared: Path, tmp_path: Path) -> None:
    photo = shared / "data/photos/n02487347_macaque.JPEG"
    out = tmp_path / "g.html"
    result = run(
        photo, "--out", out, "--model", model, "--weights", shared / f"models/{model}.safetensors",
        "--json", "--baselines", "gradcam", "--circuit", "readout", "--no-verify",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert found["label_name"] == "macaque"
    assert found["kept"]
    ours, gradcam = found["methods"]
    assert ours["area_kept"] < gradcam["area_robust"]


def test_activations_objects_and_groups(tmp_path: Path, command: Command) -> None:
    quick = ("--model", "bundled", "--baselines", "none", "--circuit", "readout", "--no-verify")
    out = tmp_path / "c.json"
    cat = EXAMPLES / "cat.jpg"
    result = command(
        cat, "--out", out, *quick, "--target", "cat, cougar", "--match", 0.9, "--alternatives", 1,
        "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["label_name"] == "cat or cougar"
    assert found["objective"] == "matching"
    assert list(found["match"]["pooled"].values())[-1] >= 0.9
    assert set(found["match_controls"]) == {"moved", "gradcam"}
    result = command(cat, "--out", out, *quick, "--box", "8,8,56,56")
    assert "activations  keeps " in result.stdout
    for asked, said in (
        (("--match", "much"), "match `much` is no cosine similarity"),
        (("--match", "nowhere=0.5"), "no tap `nowhere`"),
        (("--box", "1,2,3"), "box `1,2,3` is not left,top,right,bottom"),
        (("--box", "1,2,3,4", "--match", "0.5"), "go with none of"),
        (("--match-curve", "--objective", "both"), "look for robust masks"),
        (("--match-curve", "--contrast", "cougar"), "goes with none of --contrast"),
        (("--target", "cat, tapirr"), "unknown class ` tapirr`"),
    ):
        result = command(cat, "--out", out, *quick, *asked)
        assert result.returncode == 2
        assert said in result.stderr
