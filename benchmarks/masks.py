"""Masks and baselines on a folder of photographs, in one run.

    python benchmarks/masks.py ../shared/data/photos --model resnet18 \
        --weights ../shared/models/resnet18.safetensors --every 6

Prints a column per photograph, then median and mean. Time is given in seconds and in units of one
forward and backward pass of the same classifier on one image, measured in the same run.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

import expcam
from expcam.explain.run import DEFAULT_RECIPE, RECIPES


def pass_seconds(classifier: expcam.Classifier, x: torch.Tensor, repeats: int = 5) -> float:
    """Median seconds of one forward and backward pass to the image ``(3, H, W)``."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        image = x[None].clone().requires_grad_()
        torch.autograd.grad(classifier.logits(image)[0].max(), image)
        times.append(time.perf_counter() - start)
    return float(pd.Series(times[1:]).median())


def run(args: argparse.Namespace) -> pd.DataFrame:
    torch.set_flush_denormal(True)
    classifier = expcam.load_classifier(args.model, args.weights, device=args.device)
    classifier.module.requires_grad_(False)
    photos = sorted(
        p for p in args.photos.iterdir() if p.suffix.lower() in (".jpeg", ".jpg", ".png")
    )
    rows = []
    for photo in photos[args.first :: args.every]:
        unit = pass_seconds(classifier, classifier.prepare(photo).input)
        e = expcam.explain_image(classifier, photo, recipe=args.recipe)
        row = {
            "photo": photo.stem[:28],
            "label": e.label_name[:20],
            "confidence": e.confidence,
            "area": e.area,
            "kept": e.kept,
            "robustness": e.robustness,
            "necessary": e.necessary,
            "seconds": e.seconds,
            "passes": e.seconds / unit,
            "cost": e.cost,
        }
        table = expcam.compare(classifier, e, args.methods).set_index("method")
        for method in args.methods:
            row[f"{method}_kept"] = table.loc[method, "area_kept"]
            row[f"{method}_robust"] = table.loc[method, "area_robust"]
        rows.append(row)
        print(f"{photo.name}: {e.area:.1%} in {e.seconds:.0f} s", flush=True)
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Median and mean per figure; where a method never keeps the label it needs everything."""
    figures = table.drop(columns=["photo", "label"]).astype(float)
    areas = [name for name in figures if name.endswith(("_kept", "_robust"))]
    figures[areas] = figures[areas].fillna(1.0)
    return figures.agg(["median", "mean"]).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, choices=list(RECIPES))
    parser.add_argument("--methods", default=["gradcam", "ig", "disc"], type=lambda s: s.split(","))
    parser.add_argument("--first", type=int, default=0, help="index of the first photograph")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--device")
    parser.add_argument("--csv", type=Path, help="also write the rows here")
    options = parser.parse_args()
    result = run(options)
    print(result.round(3).T.to_string(header=False))
    print(summarise(result).round(3).to_string())
    if options.csv:
        result.to_csv(options.csv, index=False)
