"""How many objects are found in collages of which that is known, and where their masks lie.

    python benchmarks/instances.py bundled --tiny ../shared/data/tiny-imagenet/train-3.parquet \
        --photos ../shared/data/photos --each 25 --seed 7
    python benchmarks/instances.py resnet18 --weights ../shared/models/resnet18.safetensors \
        --tiny ../shared/data/tiny-imagenet/train-3.parquet --photos ../shared/data/photos \
        --each 10 --seed 7

Collages (see `collages.py`) of two and of three pictures, of one class and of different classes,
``--each`` of each kind, and every second photograph by itself. Of all the zones of objects are
counted; of every ``--masks``-th collage masks are made as well. Settings were chosen on
``--seed 0`` with ``val.parquet``.
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
from expcam.explain.decision import decide
from expcam.explain.instances import object_zones
from expcam.explain.request import Request

SIDE_OF_OTHERS = 128
"""Pixels a side of a picture for other classifiers."""
MOST = 5
MASK_COLUMNS = ["masks", "found", "inside", "mostly_inside", "kept", "robustness", "passes"]
KINDS = ("one class", "different classes")


def counted(classifier: expcam.Classifier, collage: Collage) -> dict[str, object]:
    """A row: how many zones of objects there are."""
    with frozen(classifier.module), torch.enable_grad():
        decision = decide(classifier, classifier.prepare(collage.x), Request(target=collage.label))
        zones = object_zones(decision, MOST)
    return {
        "kind": collage.kind,
        "pictures": collage.pictures,
        "objects": len(collage.boxes),
        "found": len(zones),
    }


def masked(classifier: expcam.Classifier, collage: Collage) -> dict[str, object]:
    """What the masks are like: how many there are, and how much of each lies inside of one box."""
    found = expcam.explain_instances(classifier, collage.x, target=collage.label)
    inside = [
        max(
            float(each.mask[top:bottom, left:right].sum() / each.mask.sum())
            for left, top, right, bottom in collage.boxes
        )
        for each in found
    ]
    return {
        "masks": len(found),
        "inside": float(np.mean(inside)),
        "mostly_inside": float(np.mean([share >= 0.8 for share in inside])),
        "kept": float(np.mean([each.kept for each in found])),
        "robustness": float(np.mean([each.robustness for each in found])),
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
    for number, collage in enumerate(asked):
        rows.append(counted(classifier, collage))
        if args.masks and number % args.masks == 0 and collage.kind != "single":
            rows[-1] |= masked(classifier, collage)
        print(*rows[-1].values(), flush=True)
    table = pd.DataFrame(rows)
    table["right"] = table.found == table.objects
    print(table.groupby(["kind", "pictures", "objects"])["right"].agg(["mean", "size"]))
    print(pd.crosstab([table.kind, table.objects], table.found))
    print("collages, right:", table[table.kind != "single"].right.mean())
    if args.masks:
        print(table[MASK_COLUMNS].mean(), "of", table.masks.count(), "collages")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("classifier")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tiny", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--each", type=int, default=25)
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    main(parser.parse_args())
