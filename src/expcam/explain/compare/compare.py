"""Our mask and captum's attributions, measured on the same footing."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.model import Classifier
from expcam.classifier.precision import flushed_denormals
from expcam.errors import ExpcamError, OptionError
from expcam.explain.backgrounds import evaluation_backgrounds
from expcam.explain.compare.attributions import BASELINES, DEFAULT_METHODS
from expcam.explain.compare.level_sets import smallest_level
from expcam.explain.decision import decision_of
from expcam.explain.explanation import Explanation
from expcam.progress import Progress, silent

OURS = "expcam"
COLUMNS = ("method", "title", "area_kept", "area_robust", "seconds", "attribution", "reason")


def compare(
    classifier: Classifier,
    explanation: Explanation,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    progress: Progress = silent,
) -> pd.DataFrame:
    """What share of the pixels each method needs to keep the label.

    An attribution map is cut at growing areas until its level set keeps the label: on the mean
    colour (``area_kept``), and on all backgrounds of `EVALUATION` (``area_robust``). The
    explanation's mask is measured as it is, and its probabilities are cut like any other map; the
    smaller area counts. (Cuts are at `LEVELS`, the mask's own area is exact.)

    Args:
        classifier: The classifier that was explained.
        explanation: Supplies the image, the class and the mask.
        methods: Keys of `BASELINES`.
        progress: Called after each method.

    Returns:
        One row per method, ours first: ``method``, ``title``, ``area_kept``, ``area_robust``
        (shares of pixels; NaN where even the method's largest mask does not keep the label),
        ``seconds`` (to make the map), ``attribution`` (float array ``(H, W)``), ``reason``
        (empty; where a method cannot be run on the classifier, why: its areas and seconds are
        NaN then, and its attribution is None).

    Raises:
        OptionError: A method that is not known.
    """
    check_methods(methods)
    require_autograd("comparing attributions")
    x = torch.from_numpy(explanation.input).to(classifier.device)
    backgrounds = evaluation_backgrounds(x, explanation.seed)
    rows: list[tuple[object, ...]] = []
    with frozen(classifier.module), flushed_denormals():
        classifier, label = decision_of(classifier, explanation)
        probability = torch.from_numpy(explanation.probability).to(x)
        areas = _areas_needed(classifier, x, probability, backgrounds, label)
        mask_holds = (explanation.kept, explanation.robustness == 1)
        ours = [
            np.fmin(area, explanation.area) if holds else area
            for area, holds in zip(areas, mask_holds, strict=True)
        ]
        rows.append((OURS, OURS, *ours, explanation.seconds, explanation.probability, ""))
        for done, method in enumerate(methods, start=1):
            title, gap = BASELINES[method].title, float("nan")
            start = time.monotonic()
            try:
                attribution = BASELINES[method].attribute(classifier, x, label)
            except (ExpcamError, RuntimeError, AssertionError, ValueError, TypeError) as error:
                # A method of captum's says in its own way what it cannot do.
                reason = " ".join(str(error).split()) or type(error).__name__
                rows.append((method, title, gap, gap, gap, None, reason))
            else:
                seconds = time.monotonic() - start
                areas = _areas_needed(classifier, x, attribution, backgrounds, label)
                rows.append((method, title, *areas, seconds, attribution.cpu().numpy(), ""))
            progress("baselines", done, len(methods))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _areas_needed(
    classifier: Classifier, x: Tensor, attribution: Tensor, backgrounds: Tensor, label: int
) -> tuple[float, float]:
    """Smallest levels on the first background and on all; NaN where none holds."""
    areas = []
    for needed in (backgrounds[:1], backgrounds):
        level = smallest_level(classifier, x, attribution, needed, label)
        areas.append(level.area if level.holds else float("nan"))
    return areas[0], areas[1]


def check_methods(methods: Sequence[str]) -> None:
    """Raise `OptionError` for a method that is not in `BASELINES`."""
    for method in methods:
        if method not in BASELINES:
            raise OptionError(f"unknown baseline `{method}`; there are: {', '.join(BASELINES)}")
