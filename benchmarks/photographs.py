"""What the benchmarks share: their photographs, their clock and their files."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import expcam
from expcam.classifier.frozen import frozen
from expcam.files import written_whole

TUNED_ON = (
    "Irish_setter",
    "Old_English_sheepdog",
    "airship",
    "barracouta",
    "bittern",
    "cheeseburger",
    "crane",
    "dog_and_cat",
    "envelope",
    "hog",
    "kite",
    "macaque",
    "pencil_box",
    "red_fox",
    "soccer_ball",
    "trench_coat",
    "trilobite",
    "Bedlington_terrier",
    "box_turtle",
    "chambered_nautilus",
    "French_bulldog",
    "sulphur_butterfly",
    "bookcase",
    "dishrag",
    "joystick",
    "nail",
    "recreational_vehicle",
    "sunglasses",
    "comic_book",
    "bolete",
)
"""Parts of the names of the photographs that were looked at while settings were chosen."""
SPLITS = ("held-out", "tuned", "all")


def split_of(folder: Path, split: str) -> list[Path]:
    """The photographs of a split, by name."""
    photos = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if split == "all":
        return photos
    tuned = {path for path in photos if any(name in path.stem for name in TUNED_ON)}
    return [path for path in photos if (path in tuned) == (split == "tuned")]


def pass_seconds(classifier: expcam.Classifier, x: Tensor, repeats: int = 10) -> float:
    """Median seconds of one forward and backward pass to the image ``(3, H, W)``."""
    times = []
    with frozen(classifier.module):
        for _ in range(repeats + 1):
            start = time.perf_counter()
            image = x[None].clone().requires_grad_()
            torch.autograd.grad(classifier.logits(image)[0].max(), image)
            finish(x)
            times.append(time.perf_counter() - start)
    return float(pd.Series(times[1:]).median())


def finish(x: Tensor) -> None:
    """Wait for a GPU, which works on by itself."""
    if x.is_cuda:
        torch.cuda.synchronize()


def begin(
    args: argparse.Namespace, key: Sequence[str]
) -> tuple[pd.DataFrame, set[Any], list[Path]]:
    """The rows of a run that was broken off, which they are, and the photographs of the run."""
    torch.set_flush_denormal(True)
    rows = load(args.rows, key)
    done = set(rows[list(key)].itertuples(index=False, name=None))
    return rows, done, split_of(args.photos, args.split)[:: args.every]


def classifiers(args: argparse.Namespace) -> Iterator[tuple[str, expcam.Classifier]]:
    """The classifiers that were given as ``NAME[=WEIGHTS]``, with their names."""
    for name, _, weights in (each.partition("=") for each in args.classifier):
        yield name, expcam.load_classifier(name, weights or "default", device=args.device)


def load(path: Path, key: Sequence[str]) -> pd.DataFrame:
    """The rows of a run that was broken off, or none."""
    return pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=list(key))


def save(rows: pd.DataFrame, path: Path) -> None:
    """Write the rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        rows.to_parquet(temporary)
