"""Our masks, the published recipe's and captum's attributions on the same photographs.

    python benchmarks/masks.py ../shared/data/photos \
        --classifier resnet18=../shared/models/resnet18.safetensors \
        --classifier squeezenet1_0=../shared/models/squeezenet1_0.safetensors \
        --rows build/masks.parquet --plot build/masks.png

One row per classifier, photograph, method and seed goes to the Parquet file; a run that was broken
off goes on where it stopped. Every attribution map is cut at growing areas; of a mask that a method
gives itself, the mask is measured as it is and its probabilities are cut like a map.

The photographs in `photographs.TUNED_ON` were looked at while the solver's settings were chosen,
so they are left out unless asked for with ``--split``.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from photographs import SPLITS, begin, classifiers, finish, pass_seconds, save
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import expcam
from expcam.classifier.frozen import frozen
from expcam.classifier.precision import InBfloat16
from expcam.explain.backgrounds import evaluation_backgrounds
from expcam.explain.compare.attributions import BASELINES
from expcam.explain.compare.level_sets import LEVELS, smallest_level
from expcam.explain.pixels import components, level_set
from expcam.explain.verification import predictions
from expcam.search.engine import FORWARD

OURS: dict[str, dict[str, Any]] = {
    "expcam robust": {"objective": "robust"},
    "expcam sufficient": {"objective": "sufficient"},
    "expcam free logits": {"recipe": "free"},
    "paper": {"recipe": "paper"},
}
METHODS = (*OURS, *BASELINES)
KEY = ["classifier", "photo", "method", "seed"]
BORDER = 14
"""The border is one such part of the shorter side wide."""


@dataclass
class Passes:
    """Passes of a classifier, each of one image."""

    forward: int = 0
    backward: int = 0

    @property
    def cost(self) -> float:
        """In units of a forward and a backward pass."""
        return self.forward * FORWARD + self.backward * (1 - FORWARD)


@contextmanager
def counted(module: nn.Module) -> Iterator[Passes]:
    """Count the passes of a classifier from outside, whoever makes them, also with a copy of it."""
    passes = Passes()

    def hook(called: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        copied = isinstance(called, InBfloat16) and called.module is not module
        if called is not module and not copied:
            return
        passes.forward += len(inputs[0])
        if logits.requires_grad:

            def count(_gradient: Tensor, images: int = len(inputs[0])) -> None:
                passes.backward += images

            logits.register_hook(count)

    handle = register_module_forward_hook(hook)
    try:
        yield passes
    finally:
        handle.remove()


def measure(
    classifier: expcam.Classifier, photo: Path, method: str, seed: int, *, curve: bool
) -> dict[str, object]:
    """One row: how small the method's masks can be, and what they cost.

    With ``curve`` every level set is tried on every background, for a plot.
    """
    x = classifier.prepare(photo).input
    explanation: expcam.Explanation | None = None
    with frozen(classifier.module), counted(classifier.module) as passes:
        start = time.perf_counter()
        if method in OURS:
            explanation = expcam.explain_image(classifier, photo, seed=seed, **OURS[method])
            attribution, label = torch.from_numpy(explanation.probability).to(x), explanation.label
        else:
            with torch.inference_mode():
                label = int(classifier.logits(x[None]).argmax())
            attribution = BASELINES[method].attribute(classifier, x, label)
        finish(x)
        seconds, cost = time.perf_counter() - start, passes.cost
        backgrounds = evaluation_backgrounds(x, seed)
        kept, robust = (
            smallest_level(classifier, x, attribution, some, label)
            for some in (backgrounds[:1], backgrounds)
        )
        needed = {"area_kept": kept.area, "area_robust": robust.area}
        shown = robust.mask
        own: dict[str, object] = {}
        if explanation is not None:
            shown = torch.from_numpy(explanation.mask).to(x.device)
            if explanation.kept:
                needed["area_kept"] = min(needed["area_kept"], explanation.area)
            if explanation.robustness == 1:
                needed["area_robust"] = min(needed["area_robust"], explanation.area)
            # A level set is chosen so that it holds; only a mask of the method's own can fail.
            own = {
                "kept": float(explanation.kept),
                "robustness": explanation.robustness,
                "draws": explanation.draws,
                "draws_kept": explanation.draws_kept,
                "counted": explanation.cost,
                "cell": explanation.cell,
            }
        if curve:
            cuts = torch.stack([level_set(attribution, area) for area in LEVELS])
            held = predictions(classifier, x, cuts, backgrounds).argmax(-1) == label
            own["curve"] = held.float().mean(1).tolist()
        with torch.inference_mode():
            without = int(classifier.logits(torch.where(shown, 0.0, x)[None]).argmax())
    width = min(shown.shape) // BORDER
    inner = shown[width:-width, width:-width]
    return {
        "area": float(shown.float().mean()),
        "kept": float("nan"),
        "robustness": float("nan"),
        **needed,
        "seconds": seconds,
        "cost": cost,
        "necessary": without != label,
        "components": len(components(shown)),
        "border": 1 - float(inner.sum() / shown.sum()),
        **own,
    }


def run(args: argparse.Namespace) -> pd.DataFrame:
    """The rows that were asked for, whether they were measured now or before."""
    rows, done, photos = begin(args, KEY)
    asked: set[tuple[str, str, str, int]] = set()
    for name, classifier in classifiers(args):
        wanted = [
            (photo, method, seed)
            for place, photo in enumerate(photos)
            for method in args.methods
            for seed in (args.seeds if method in OURS else args.seeds[:1])
            if method != "paper" or place % args.paper_every == 0
        ]
        todo = [each for each in wanted if (name, each[0].stem, *each[1:]) not in done]
        for photo, method, seed in track(todo, description=name, console=Console(stderr=True)):
            unit = pass_seconds(classifier, classifier.prepare(photo).input, 3)
            facts = (name, photo.stem, method, seed)
            row = {**dict(zip(KEY, facts, strict=True)), "pass_seconds": unit}
            row |= measure(classifier, photo, method, seed, curve=args.plot is not None)
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
            save(rows, args.rows)
        asked |= {(name, photo.stem, method, seed) for photo, method, seed in wanted}
    return rows[[key in asked for key in rows[KEY].itertuples(index=False, name=None)]]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per classifier and method, in the order of `METHODS`."""
    rows = rows.reindex(columns=[*rows.columns, *({"draws", "draws_kept"} - set(rows.columns))])
    groups = rows.groupby(["classifier", "method"], sort=False)
    table = pd.DataFrame(
        {
            "masks": groups.size(),
            "kept": groups["kept"].mean(),
            "area": groups["area"].median(),
            "mean area": groups["area"].mean(),
            "geometric": groups["area"].agg(lambda areas: np.exp(np.log(areas).mean())),
            "on grey": groups["area_kept"].median(),
            "on all 8": groups["area_robust"].median(),
            "8, mean": groups["area_robust"].mean(),
            "unseen": groups["robustness"].mean(),
            "draws": groups["draws_kept"].sum() / groups["draws"].sum(),
            "seconds": groups["seconds"].median(),
            "passes": groups["cost"].median(),
            "most": groups["cost"].max(),
            "time/pass": (rows["seconds"] / rows["pass_seconds"])
            .groupby([rows["classifier"], rows["method"]], sort=False)
            .median(),
            "necessary": groups["necessary"].mean(),
            "components": groups["components"].median(),
            "border": groups["border"].mean(),
        }
    )
    order = sorted(table.index, key=lambda key: (key[0], METHODS.index(key[1])))
    return table.loc[order]


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Mean robustness of the level sets against their area, a panel per classifier."""
    names = list(rows["classifier"].unique())
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(6 * len(names), 5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    lines = {}
    for axis, name in zip(axes[0], names, strict=True):
        for colour, method in enumerate(METHODS):
            some = rows[(rows["classifier"] == name) & (rows["method"] == method)]
            if some.empty:
                continue
            mean = pd.DataFrame(some["curve"].tolist()).mean()
            (lines[method],) = axis.plot(LEVELS, mean, color=f"C{colour}")
            if method in OURS:
                axis.plot(some["area"].median(), some["robustness"].mean(), "o", color=f"C{colour}")
        axis.set(title=name, xscale="log", xlabel="share of pixels kept", ylim=(0, 1.02))
        axis.xaxis.set_major_formatter("{x:.1%}")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of the eight backgrounds kept")
    figure.legend(
        lines.values(),
        lines,
        loc="outside lower center",
        ncols=4,
        title="level sets; dots: the masks themselves",
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--classifier", action="append", default=[], metavar="NAME[=WEIGHTS]")
    parser.add_argument("--methods", default=METHODS, type=lambda names: names.split(","))
    parser.add_argument("--split", default="held-out", choices=SPLITS)
    parser.add_argument(
        "--seeds", default=[0], type=lambda seeds: [int(seed) for seed in seeds.split(",")]
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph")
    parser.add_argument("--paper-every", type=int, default=1, help="of them, for the slow recipe")
    parser.add_argument("--rows", type=Path, default=Path("build/masks.parquet"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--device")
    options = parser.parse_args()
    unknown = set(options.methods) - set(METHODS)
    if unknown:
        parser.error(f"unknown methods {sorted(unknown)}; there are: {', '.join(METHODS)}")
    options.classifier = options.classifier or ["bundled"]
    result = run(options)
    print(summary(result).round(3).to_string())
    if options.plot:
        plot(result, options.plot)
