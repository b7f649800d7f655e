"""Circuits of whole classes: found on some images of a class, tested on others.

    python benchmarks/class_circuits.py ../shared/data/tiny-imagenet --classes 10

The classifier is the bundled one. A circuit is discovered on a few validation images that it gets
right, shared by all of them, and tested on crops of images that were not used: does it alone keep
the class, and does it not say it of images of other classes, which are its contrast inputs? The
references of the tests are photographs that nothing was found with.
"""

import argparse
import io
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

import expcam
from expcam.circuits.discovery.methods import METHOD, METHODS
from expcam.errors import ExpcamError

FOUND_ON, TESTED_ON, REFERENCES = 6, 12, 12


def images_of(classifier: expcam.Classifier, folder: Path) -> dict[str, list[Tensor]]:
    """Validation images that the classifier gets right, by class."""
    names = pd.read_csv(folder / "classes.csv").set_index("wnid")["name"].to_dict()
    table = pd.read_parquet(folder / "val.parquet", columns=["wnid", "image"])
    right: dict[str, list[Tensor]] = defaultdict(list)
    for wnid, data in zip(table["wnid"], table["image"], strict=True):
        label = names[wnid].partition(",")[0]
        if label in (classifier.labels or ()):
            x = classifier.prepare(Image.open(io.BytesIO(data)).convert("RGB")).input
            with torch.no_grad():
                said = int(classifier.logits(x[None])[0].argmax())
            if classifier.label_name(said) == label:
                right[label].append(x)
    return right


def main(args: argparse.Namespace) -> None:
    classifier = expcam.load_classifier("bundled", device="cpu")
    right = images_of(classifier, args.data)
    enough = [name for name in right if len(right[name]) >= FOUND_ON + TESTED_ON]
    names = enough[:: max(1, len(enough) // args.classes)][: args.classes]
    rest = [images[0] for name, images in right.items() if name not in names]
    found_with, tested_with = rest[:REFERENCES], rest[REFERENCES : 2 * REFERENCES]
    rows, circuits = [], {}
    for name in track(names, console=Console(stderr=True)):
        images = right[name]
        row: dict[str, object] = {"class": name}
        try:
            explanations = [
                expcam.explain_image(classifier, x, area=0.5) for x in images[:FOUND_ON]
            ]
            circuit = expcam.discover_circuit(
                classifier,
                explanations,
                whole_image=True,
                reference=found_with,
                method=args.method,
                parts=("channels",),
            )
            check = expcam.verify_circuit(
                classifier,
                circuit,
                images[FOUND_ON : FOUND_ON + TESTED_ON],
                reference=tested_with,
                sizes=(0.5,),
                draws=1,
            )
            facts, claims = circuit.graph.graph, check.claims.set_index("claim")["figure"]
            circuits[name] = circuit
            row |= {"size": facts["size"], "passes": facts["passes"]}
            row |= {"selectivity": facts["selectivity"], **claims.to_dict()}
        except ExpcamError as error:
            row["none"] = str(error)
        rows.append(row)
        print(row, flush=True)
    print(pd.DataFrame(rows).round(2).to_string())
    shared = [
        expcam.compare_circuits(circuits[a], circuits[b]).node_jaccard
        for a, b in combinations(circuits, 2)
    ]
    print(f"Jaccard index of the channels of two classes: {pd.Series(shared).mean():.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of the Parquet files")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--method", default=METHOD, help=f"of {', '.join(METHODS)}")
    main(parser.parse_args())
