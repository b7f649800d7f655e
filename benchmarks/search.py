"""Draw how a search goes: its masks, its share and its margins, step by step.

python benchmarks/search.py examples/cat.jpg docs/search.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain.api import problem_of
from expcam.explain.decision import decide
from expcam.explain.request import Request
from expcam.progress import silent
from expcam.search.engine import search
from expcam.search.model import ClassifierModel
from expcam.search.parts import Perturbation
from expcam.search.settings import Settings

SHOWN = 3
"""So many moments before the end are shown."""


def draw(photo: Path, out: Path) -> None:
    """Search once and draw it."""
    classifier = expcam.load_classifier("bundled", device="cpu")
    masks: list[Tensor] = []
    margins: list[float] = []
    with frozen(classifier.module), torch.enable_grad():
        request = Request()
        decision = decide(classifier, classifier.prepare(photo), request)
        allowed = torch.ones_like(decision.x[0], dtype=torch.bool)
        problem = problem_of(decision, request, allowed)
        parts = problem.parts
        loss, seen = parts.loss, parts.margins

        def noted(keep: Tensor, output: Any, by: Perturbation) -> Tensor:
            masks.append(keep.detach())
            return loss(keep, output, by)

        def compared(outputs: Sequence[Any], by: Sequence[Perturbation]) -> Tensor:
            found = seen(outputs, by)
            if outputs[0].logits.requires_grad:  # of a step, not of a check
                margins.append(float(found.min()))
            return found

        parts.loss, parts.margins = noted, compared  # type: ignore[method-assign]
        (found,) = search([problem], ClassifierModel(classifier), Settings(), silent)
    steps = len(margins)
    each = [masks[round(step * len(masks) / steps)] for step in range(steps)]
    figure = plt.figure(figsize=(9, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, SHOWN + 1, height_ratios=[1.1, 1])
    picture = decision.image.picture / 255
    moments = [round(k * (steps - 1) / SHOWN) for k in range(SHOWN)]
    shown = [(f"step {step + 1}", each[step]) for step in moments]
    for place, (title, mask) in enumerate([*shown, ("returned", found.keep.float())]):
        axes = figure.add_subplot(grid[0, place])
        keep = mask.numpy()[:, :, None]
        axes.imshow(np.clip(keep * picture + (1 - keep) * (0.35 * picture + 0.6), 0, 1))
        axes.contour(keep[:, :, 0], [0.5], colors=["#be185d"], linewidths=1.2)
        axes.set_title(f"{title}: {float((mask > 0.5).float().mean()):.0%}", fontsize=10)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[1, :])
    axes.plot([100 * float((mask > 0.5).float().mean()) for mask in each], color="#be185d")
    axes.set_ylabel("share of the pixels, %", color="#be185d")
    axes.set_xlabel("step")
    checked = steps * Settings().early
    axes.axvline(checked, color="#9ca3af", linestyle=":")
    axes.set_ylim(0)
    axes.text(
        checked + 0.5, 0.6, "from here on hard masks are checked", fontsize=9, color="#4b5563"
    )
    beside = axes.twinx()
    beside.plot(margins, color="#2563eb", linewidth=0.9)
    beside.axhline(0, color="#2563eb", linewidth=0.5)
    beside.set_ylabel("lowest margin, logits", color="#2563eb")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    draw(options.photo, options.out)
