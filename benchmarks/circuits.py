"""How faithful circuits are, beside controls, and what it costs to read them.

    python benchmarks/circuits.py ../shared/data/photos \
        --classifier bundled \
        --classifier resnet18=../shared/models/resnet18.safetensors \
        --classifier squeezenet1_0=../shared/models/squeezenet1_0.safetensors \
        --rows build/circuits.parquet

Each photograph is explained, its circuit read, and the circuit and the scores behind it are
tested by ablation of nodes and of edges. One row per classifier, photograph, parts, ablation and
method goes to the Parquet file; a run that was broken off goes on where it stopped. The costs are
measured on classifiers with random weights, one process for each, so that its peak memory is its
own.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from photographs import SPLITS, begin, classifiers, pass_seconds, save
from rich.console import Console
from rich.progress import track
from torch import Tensor

import expcam
from expcam.circuits.ablation.choices import RANDOM
from expcam.circuits.ablation.verification import ABLATIONS, SUBJECTS
from expcam.circuits.edges.layers import follow
from expcam.circuits.readout import select
from expcam.circuits.scores import COVERAGE, TOP_K
from expcam.circuits.trace.program import capture
from expcam.circuits.trace.recording import Channels, measure
from expcam.classifier.frozen import frozen

KEY = ["classifier", "photo"]
BY = ["classifier", "parts", "ablation", "method"]
COSTS = ("resnet18", "resnet50", "vit_b_16", "convnext_tiny")
REFERENCES, DRAWS = 6, 3
REPEATS = 5


def measured(
    classifier: expcam.Classifier, photo: Path, others: list[Path], parts: list[str]
) -> pd.DataFrame:
    """The rows of one photograph."""
    explanation = expcam.explain_image(classifier, photo)
    circuit = expcam.read_circuit(classifier, explanation)
    check = expcam.verify_circuit(
        classifier,
        circuit,
        [explanation],
        reference=others,
        ablations=ABLATIONS,
        parts=parts,
        draws=DRAWS,
    )
    table = check.summary().reset_index()
    # Each draw of random parts is a control of its own: the best of them is what ours must beat.
    distance = (check.curves["faithfulness"] - 1).abs()
    random = check.curves["method"] == RANDOM
    by = [check.curves[name][random] for name in ("parts", "ablation", "draw")]
    best = distance[random].groupby(by).mean().groupby(["parts", "ablation"]).min()
    table["best_random"] = [
        best.loc[parts, ablation]
        for parts, ablation in zip(table["parts"], table["ablation"], strict=True)
    ]
    table["ours"] = [check.ours[parts] for parts in table["parts"]]
    return table


def run(args: argparse.Namespace) -> pd.DataFrame:
    rows, done, photos = begin(args, KEY)
    for name, classifier in classifiers(args):
        todo = [photo for photo in photos if (name, photo.stem) not in done]
        for photo in track(todo, description=name, console=Console(stderr=True)):
            others = [each for each in photos if each != photo][:REFERENCES]
            table = measured(classifier, photo, others, args.parts)
            table.insert(0, "photo", photo.stem)
            table.insert(0, "classifier", name)
            rows = pd.concat([rows, table], ignore_index=True)
            save(rows, args.rows)
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per classifier, parts, ablation and method.

    ``distance`` is the mean area between the faithfulness curve and 1; ``beats random`` the share
    of the photographs on which it is less than that of every draw of random parts.
    """
    groups = rows.groupby(BY, sort=False)
    beats = rows["distance"] < rows["best_random"]
    return pd.DataFrame(
        {
            "photos": groups.size(),
            "distance": groups["distance"].mean(),
            "median": groups["distance"].median(),
            "smallest": groups["smallest"].median(),
            "label kept": groups["label_kept"].mean(),
            "beats random": beats.groupby([rows[name] for name in BY], sort=False).mean(),
        }
    )


def selection(_: str, channels: Channels) -> Tensor:
    """The readout's own."""
    return select(channels.relevance, COVERAGE, TOP_K)


def seconds_of(classifier: expcam.Classifier, x: Tensor) -> list[float]:
    """Seconds of a pass, of measuring, of following edges, and of the first image with tracing."""
    with frozen(classifier.module) as module:
        start = time.perf_counter()
        measure(module, x[None], 0, selection)
        first = time.perf_counter() - start
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            found = measure(module, x[None], 0, selection)
            between = time.perf_counter()
            with torch.no_grad():
                list(follow(found.recording, found.active))
            times.append((between - start, time.perf_counter() - between))
        medians = pd.DataFrame(times).median().tolist()
    return [pass_seconds(classifier, x), *medians, first]


def peak_of(classifier: expcam.Classifier, x: Tensor, what: str) -> list[float]:
    """MiB at the peak of one pass beyond what was there before; of a process that did no other."""
    with frozen(classifier.module) as module:
        capture(module, x[None])
        before = _memory("VmRSS")
        if what == "plain":
            image = x[None].clone().requires_grad_()
            torch.autograd.grad(module(image)[0, 0], image)
        else:
            measure(module, x[None], 0, selection)
    return [_memory("VmHWM") - before]


def _memory(field: str) -> float:
    """MiB that this process holds, or held at its peak; Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) / 1024


def cost(name: str, what: str) -> None:
    """Print the figures of a classifier with random weights."""
    classifier = expcam.load_classifier(name, None, device="cpu")
    x = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
    print(*(seconds_of(classifier, x) if what == "seconds" else peak_of(classifier, x, what)))


def cost_table(names: list[str]) -> pd.DataFrame:
    """What reading costs, in passes of the classifier itself."""
    rows = {}
    for name in track(names, description="costs", console=Console(stderr=True)):
        unit, measuring, edges, first = _child(name, "seconds")
        (plain,), (ours,) = _child(name, "plain"), _child(name, "measure")
        rows[name] = {
            "pass, ms": 1000 * unit,
            "measuring, passes": measuring / unit,
            "edges, ms": 1000 * edges,
            "memory, of a pass's": ours / plain,
            "first image, s": first,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _child(name: str, what: str) -> list[float]:
    command = [sys.executable, __file__, "--cost", name, what]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(each) for each in output.split()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="?", help="folder of photographs")
    parser.add_argument("--classifier", action="append", default=[], metavar="NAME[=WEIGHTS]")
    parser.add_argument("--parts", default=list(SUBJECTS), type=lambda names: names.split(","))
    parser.add_argument("--split", default="held-out", choices=SPLITS)
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--rows", type=Path, default=Path("build/circuits.parquet"))
    parser.add_argument("--costs", default=COSTS, type=lambda names: names.split(","))
    parser.add_argument("--cost", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--device")
    options = parser.parse_args()
    if options.cost:
        cost(*options.cost)
        sys.exit()
    pd.set_option("display.width", 200)
    if options.photos:
        options.classifier = options.classifier or ["bundled"]
        print(summary(run(options)).round(3).to_string())
    print(cost_table(list(options.costs)).round(3).to_string())
