"""Separate explanations of one class on one image."""

import torch
from torch import Tensor

from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.classifier.precision import flushed_denormals
from expcam.errors import OptionError
from expcam.explain.api import explained
from expcam.explain.decision import decide
from expcam.explain.explanation import Explanation
from expcam.explain.request import DEFAULT_RECIPE, Request
from expcam.progress import Progress, silent

LARGEST = 0.5
"""A further mask is an object's only where it has less than so much of the pixels."""
HELD = 0.5
"""It must keep the label on this share of the unseen backgrounds."""


def explain_instances(
    classifier: Classifier,
    image: ImageSource | Tensor | Prepared,
    *,
    target: int | str | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    most: int = 5,
    progress: Progress = silent,
) -> list[Explanation]:
    """Find separate explanations of one class: one for each object, where there are several.

    They are found one after the other, the pixels of the earlier ones forbidden, until none
    keeps the label on the mean colour and on at least half of the unseen backgrounds with less
    than half of the pixels. So they do not overlap, and each is sufficient on its own.

    Args:
        classifier: The classifier; it is left as it was found.
        image: See `explain_image`.
        target: Class to explain; None for the predicted one.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹.
        most: Stop after this many, at least 1.
        progress: Called after each step.

    Returns:
        At least one explanation; the first is that of `explain_image`.

    Raises:
        OptionError: ``most`` is below 1, or see `explain_image`.
    """
    if most < 1:
        raise OptionError(f"most {most} is out of range: at least 1")
    request = Request(target=target, recipe=recipe, seed=seed)
    require_autograd("explaining an image")
    found: list[Explanation] = []
    with frozen(classifier.module), flushed_denormals(), torch.enable_grad():
        decision = decide(classifier, classifier.prepare(image), request)
        allowed = torch.ones_like(decision.x[0], dtype=torch.bool)
        while len(found) < most and allowed.any():
            (each,) = explained([decision], request, progress, allowed=allowed)
            holds = each.kept and each.robustness >= HELD and each.area < LARGEST
            if found and not holds:
                break
            found.append(each)
            if not each.kept:
                break
            allowed = allowed & ~torch.from_numpy(each.mask).to(allowed.device)
    return found
