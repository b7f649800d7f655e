"""What keeping the activations costs in pixels."""

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.errors import OptionError
from expcam.explain.api import explain_image
from expcam.explain.match import GRADCAM, MOVED
from expcam.explain.request import Request, Target
from expcam.progress import Progress, silent

LEVELS = (0.7, 0.8, 0.9)
COLUMNS = (
    *("asked", "match", "area", "kept", "robustness", "necessary", "divergence"),
    *(MOVED, GRADCAM),
)


def match_curve(
    classifier: Classifier,
    image: ImageSource | Tensor | Prepared,
    levels: Sequence[float] = LEVELS,
    *,
    target: Target = None,
    seed: int = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The area of the smallest robust mask against how far it keeps the activations.

    Args:
        classifier: The classifier; it is left as it was found.
        image: See `explain_image`.
        levels: The least pooled cosine similarities at the last tap that are asked for, each a
            search of its own.
        target: Class to explain; None for the predicted one.
        seed: From 0 below 2³¹.
        progress: Called after each step.

    Returns:
        A row for the robust mask without any match asked for (``asked`` is NaN), and one for each
        level: ``match`` (pooled, at the last tap), ``area``, ``kept``, ``robustness``,
        ``necessary``, ``divergence``, and the match of the controls (see
        `Explanation.match_controls`): ``moved`` and ``gradcam`` (NaN where there is none).

    Raises:
        OptionError: No level, or one out of range; or see `explain_image`.
    """
    if not levels:
        raise OptionError("no levels of match given")
    for asked in levels:
        Request(match=asked, seed=seed)  # a bad one is refused before any work is done
    prepared = classifier.prepare(image)
    rows = []
    for level in (None, *levels):
        found = explain_image(
            classifier, prepared, target=target, match=level, seed=seed, progress=progress
        )
        controls = (found.match_controls.get(name) for name in (MOVED, GRADCAM))
        rows.append(
            (
                *(level, found.match.last, found.area, found.kept, found.robustness),
                *(found.necessary, found.divergence),
                *(None if each is None else each.last for each in controls),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(("asked", "match", MOVED, GRADCAM), float)
    )
