"""Which circuits pass the tests that any class would fail, by each method of discovery.

    python benchmarks/discovery.py ../shared/data/photos --split held-out \
        --classifier resnet18=../shared/models/resnet18.safetensors \
        --work build/discovery

Each photograph is explained, its circuit is read and discovered by each method, also for classes
that the classifier does not say, and all circuits are then tested beside their controls, those of
other photographs among them. The references of the tests are photographs that nothing was chosen
with. Explanations, circuits and rows are kept in the folder, so that a run that was broken off
goes on where it stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from photographs import SPLITS, begin, classifiers, save
from rich.console import Console
from rich.progress import track

import expcam
from expcam.circuits.discovery.methods import METHOD, METHODS
from expcam.circuits.scores import READOUT
from expcam.errors import ExpcamError

KEY = ["classifier", "photo", "method"]
REFERENCES = 8
"""Photographs that circuits are found against, and as many others that they are tested against."""
OTHERS = 3
"""Circuits of other photographs that are removed."""


def explained(classifier: expcam.Classifier, photo: Path, folder: Path) -> expcam.Explanation:
    """An explanation, made once."""
    path = folder / f"{photo.stem}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        expcam.explain_image(classifier, photo).save(path)
    return expcam.Explanation.load(path)


def circuit_of(
    classifier: expcam.Classifier,
    explanation: expcam.Explanation,
    method: str,
    reference: Sequence[Path],
    path: Path,
    seed: int = 0,
) -> expcam.Circuit | str:
    """A circuit, made once; or why there is none."""
    reason = path.with_suffix(".txt")
    if reason.exists():
        return reason.read_text()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if method == READOUT:
                circuit = expcam.read_circuit(classifier, explanation)
            else:
                circuit = expcam.discover_circuit(
                    classifier,
                    explanation,
                    reference=reference,
                    method=method,
                    parts=("channels",),
                    controls=not seed,
                    seed=seed,
                )
            circuit.save(path)
        except ExpcamError as error:
            reason.write_text(str(error))
            return str(error)
    return expcam.Circuit.load(path)


def run(args: argparse.Namespace) -> pd.DataFrame:
    rows, done, photos = begin(args, KEY)
    for name, classifier in classifiers(args):
        folder = args.work / name
        masks = {photo: explained(classifier, photo, folder) for photo in photos}
        for method in args.methods:
            circuits = {}
            for photo in track(photos, description=method, console=Console(stderr=True)):
                found_with = [each for each in photos if each != photo][:REFERENCES]
                path = folder / method / f"{photo.stem}.json"
                circuits[photo] = circuit_of(classifier, masks[photo], method, found_with, path)
            for photo in track(photos, description="tests", console=Console(stderr=True)):
                if (name, photo.stem, method) in done:
                    continue
                table = tested(classifier, photo, masks[photo], circuits, method, photos, folder)
                table.insert(0, "method", method)
                table.insert(0, "photo", photo.stem)
                table.insert(0, "classifier", name)
                rows = pd.concat([rows, table], ignore_index=True)
                save(rows, args.rows)
    return rows


def tested(
    classifier: expcam.Classifier,
    photo: Path,
    explanation: expcam.Explanation,
    circuits: dict[Path, expcam.Circuit | str],
    method: str,
    photos: Sequence[Path],
    folder: Path,
) -> pd.DataFrame:
    """The claims on one circuit, a row each."""
    circuit = circuits[photo]
    if isinstance(circuit, str):
        return pd.DataFrame([{"claim": "found", "passes": False, "statement": circuit}])
    found_with = [each for each in photos if each != photo][:REFERENCES]
    unseen = [each for each in photos if each != photo and each not in found_with][:REFERENCES]
    others = [
        other for each, other in circuits.items() if each != photo and not isinstance(other, str)
    ][:OTHERS]
    repeats = []
    if method != READOUT:
        again = folder / f"{method}-again" / f"{photo.stem}.json"
        repeat = circuit_of(classifier, explanation, method, found_with, again, seed=1)
        repeats = [] if isinstance(repeat, str) else [repeat]
    try:
        check = expcam.verify_circuit(
            classifier,
            circuit,
            [explanation],
            reference=unseen,
            others=others,
            repeats=repeats,
            sizes=(0.5,),
            draws=1,
        )
    except ExpcamError as error:
        return pd.DataFrame([{"claim": "tested", "passes": False, "statement": str(error)}])
    facts = circuit.graph.graph
    channels = sum(data["kind"] == "channel" for _, data in circuit.graph.nodes(data=True))
    found = {"claim": "found", "figure": facts.get("size"), "passes": True, "channels": channels}
    references = check.references.melt("reference", var_name="trial", value_name="figure")
    references["claim"] = references["trial"] + "/" + references["reference"]
    claims = pd.concat([pd.DataFrame([found]), check.claims, references[["claim", "figure"]]])
    return claims.assign(passes_count=facts.get("passes"), untested=check.untested)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per classifier, method and claim: its figure, its control, and how many pass."""
    groups = rows.groupby(["classifier", "method", "claim"], sort=False)
    return pd.DataFrame(
        {
            "photos": groups.size(),
            "figure": groups["figure"].median(),
            "mean": groups["figure"].mean(),
            "control": groups["control"].mean(),
            "pass": groups["passes"].apply(lambda passes: passes.dropna().astype(float).mean()),
        }
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--classifier", action="append", required=True, metavar="NAME[=WEIGHTS]")
    parser.add_argument(
        "--methods",
        default=[READOUT, METHOD],
        type=lambda names: names.split(","),
        help=f"of {READOUT}, {', '.join(METHODS)}",
    )
    parser.add_argument("--split", default="held-out", choices=SPLITS)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--work", type=Path, default=Path("build/discovery"))
    parser.add_argument("--device")
    options = parser.parse_args()
    options.rows = options.work / "rows.parquet"
    pd.set_option("display.width", 200)
    print(summary(run(options)).round(3).to_string())
    sys.exit()
