"""What a mask costs in a batch, against alone: the same photographs both ways in one run.

    python benchmarks/batch.py ../shared/data/photos \
        --classifier resnet18=../shared/models/resnet18.safetensors \
        --classifier squeezenet1_0=../shared/models/squeezenet1_0.safetensors

The first 32 of the photographs that `photographs.TUNED_ON` leaves out, unless said otherwise.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from photographs import SPLITS, classifiers, pass_seconds, split_of
from rich.console import Console
from rich.progress import Progress, track

import expcam


def compare(classifier: expcam.Classifier, photos: list[Path]) -> dict[str, float]:
    """Seconds and passes of a mask, alone and in a batch; what the batch changes."""
    start = time.perf_counter()
    one_by_one = track(photos, description="alone", console=Console(stderr=True))
    alone = [expcam.explain_image(classifier, photo) for photo in one_by_one]
    between = time.perf_counter()
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("in a batch")
        batch = expcam.explain_images(
            classifier,
            list(photos),
            progress=lambda _, done, total: bar.update(task, completed=done, total=total),
        )
    end = time.perf_counter()
    pairs = list(zip(alone, batch, strict=True))
    return {
        "photos": len(photos),
        "pass_ms": 1000 * pass_seconds(classifier, classifier.prepare(photos[0]).input),
        "seconds_alone": (between - start) / len(photos),
        "seconds_batch": (end - between) / len(photos),
        "time_ratio": (end - between) / (between - start),
        "passes_alone": float(np.mean([each.cost for each in alone])),
        "passes_batch": float(np.mean([each.cost for each in batch])),
        "area_ratio": float(np.exp(np.mean([np.log(b.area / a.area) for a, b in pairs]))),
        "draws_alone": float(np.mean([each.draws_kept / each.draws for each in alone])),
        "draws_batch": float(np.mean([each.draws_kept / each.draws for each in batch])),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--classifier", action="append", default=[], metavar="NAME[=WEIGHTS]")
    parser.add_argument("--split", default="held-out", choices=SPLITS)
    parser.add_argument("--size", type=int, default=32, help="how many photographs")
    parser.add_argument("--device")
    options = parser.parse_args()
    options.classifier = options.classifier or ["bundled"]
    torch.set_flush_denormal(True)
    chosen = split_of(options.photos, options.split)[: options.size]
    table = {name: compare(each, chosen) for name, each in classifiers(options)}
    print(pd.DataFrame(table).round(3).to_string())
