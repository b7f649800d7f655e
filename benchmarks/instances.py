"""How many objects are found in collages of which that is known, and where their masks lie.

    python benchmarks/instances.py bundled --tiny ../shared/data/tiny-imagenet/train-1.parquet \
        --photos ../shared/data/photos --each 25 --seed 1
    python benchmarks/instances.py resnet18 --weights ../shared/models/resnet18.safetensors \
        --tiny ../shared/data/tiny-imagenet/train-1.parquet --photos ../shared/data/photos \
        --each 10 --seed 1

Collages (see `collages.py`) of two and of three pictures, of one class and of different classes,
``--each`` of each kind, and every second photograph by itself. Settings were chosen on
``--seed 0`` with ``val.parquet`` and ``train-0.parquet``.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from collages import Collage, Maker, known, tiny_images
from photographs import split_of
from timm.data import ImageNetInfo

import expcam
from expcam.classifier.frozen import frozen
from expcam.classifier.sources.bundled import SIDE, bundled_classes

SIDE_OF_OTHERS = 128
"""Pixels a side of a picture for other classifiers."""
KINDS = ("one class", "different classes")


def measured(classifier: expcam.Classifier, collage: Collage) -> dict[str, object]:
    """A row: how many objects are found, and how much of each mask is inside of one box."""
    found = expcam.explain_instances(classifier, collage.x, target=collage.label)
    inside = []
    for each in found:
        shares = [
            each.mask[top:bottom, left:right].sum() / each.mask.sum()
            for left, top, right, bottom in collage.boxes
        ]
        inside.append(float(max(shares)))
    return {
        "kind": collage.kind,
        "pictures": collage.pictures,
        "objects": len(collage.boxes),
        "found": len(found),
        "inside": float(np.mean([share >= 0.8 for share in inside])),
        "kept": all(each.kept for each in found),
        "passes": sum(each.cost for each in found),
    }


def main(args: argparse.Namespace) -> None:
    """Measure, and print a confusion table."""
    torch.set_flush_denormal(True)
    own = args.classifier == "bundled"
    weights = args.weights or "default"
    classifier = expcam.load_classifier(args.classifier, weights=weights, device="cpu")
    wnids: list[tuple[str, ...]] = [(str(wnid),) for wnid in ImageNetInfo().label_names()]
    if own:
        wnids = [tuple(ids) for ids, _ in bundled_classes()]
    rng = np.random.default_rng(args.seed)
    with frozen(classifier.module):
        maker = Maker(
            classifier, SIDE if own else SIDE_OF_OTHERS, known(tiny_images(args.tiny), wnids), rng
        )
        asked = [
            each
            for kind in KINDS
            for pictures in (2, 3)
            for each in maker.collages(args.each, kind, pictures)
        ]
        asked += maker.singles(split_of(args.photos, "all")[args.seed % 2 :: 2])
    rows = []
    for collage in asked:
        rows.append(measured(classifier, collage))
        print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    table["right"] = table.found == table.objects
    print(table.groupby(["kind", "pictures", "objects"])[["right", "inside", "kept"]].mean())
    print(pd.crosstab([table.kind, table.objects], table.found))
    collages = table[table.kind != "single"]
    print("collages:", collages[["right", "inside"]].mean().to_dict())
    print("passes per object found:", float((table.passes / table.found).median()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("classifier")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tiny", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--each", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
