"""Our mask and captum's attributions, measured on the same footing."""

import time
from collections.abc import Sequence

import pandas as pd
import torch

from expcam.classifier.frozen import frozen
from expcam.classifier.model import Classifier
from expcam.errors import OptionError
from expcam.explain.backgrounds import evaluation_backgrounds
from expcam.explain.baselines import BASELINES
from expcam.explain.explanation import Explanation
from expcam.explain.metrics import keeps, smallest_level
from expcam.explain.progress import Progress, silent

DEFAULT_METHODS = ("gradcam", "ig", "disc")
OURS = "expcam"


def compare(
    classifier: Classifier,
    explanation: Explanation,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    progress: Progress = silent,
) -> pd.DataFrame:
    """What share of the pixels each method needs to keep the label.

    An attribution map is cut at growing areas until its level set keeps the label: on the mean
    colour (``area_kept``), and on all eight evaluation backgrounds (``area_robust``). The mask of
    the explanation is measured as it is.

    Args:
        classifier: The classifier that was explained.
        explanation: Supplies the image, the class and the mask.
        methods: Keys of `BASELINES`.
        progress: Called after each method.

    Returns:
        One row per method, ours first: ``method``, ``title``, ``area_kept``, ``area_robust``
        (shares of pixels; NaN where even the method's largest mask does not keep the label),
        ``seconds`` (to make the map), ``attribution`` (float array ``(H, W)``).

    Raises:
        OptionError: A method that is not known.
        ClassifierError: A method that does not suit the classifier.
    """
    check_methods(methods)
    x = torch.from_numpy(explanation.input).to(classifier.device)
    label = explanation.label
    backgrounds = evaluation_backgrounds(x, explanation.seed)
    rows: list[dict[str, object]] = [
        {
            "method": OURS,
            "title": "expcam",
            "area_kept": explanation.area if explanation.kept else float("nan"),
            "area_robust": explanation.area if explanation.robustness == 1 else float("nan"),
            "seconds": explanation.seconds,
            "attribution": explanation.probability,
        }
    ]
    with frozen(classifier.module):
        for done, method in enumerate(methods, start=1):
            start = time.monotonic()
            attribution = BASELINES[method].attribute(classifier, x, label)
            seconds = time.monotonic() - start
            areas = []
            for needed in (backgrounds[:1], backgrounds):
                level = smallest_level(classifier, x, attribution, needed, label)
                holds = bool(keeps(classifier, x, level.mask[None], needed, label).all())
                areas.append(level.area if holds else float("nan"))
            rows.append(
                {
                    "method": method,
                    "title": BASELINES[method].title,
                    "area_kept": areas[0],
                    "area_robust": areas[1],
                    "seconds": seconds,
                    "attribution": attribution.cpu().numpy(),
                }
            )
            progress("baselines", done, len(methods))
    return pd.DataFrame(rows)


def check_methods(methods: Sequence[str]) -> None:
    """Raise `OptionError` for a method that is not in `BASELINES`."""
    for method in methods:
        if method not in BASELINES:
            raise OptionError(f"unknown baseline `{method}`; there are: {', '.join(BASELINES)}")
