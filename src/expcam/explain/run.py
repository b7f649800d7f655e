"""From an image to its explanation: the functions that users call."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.errors import OptionError
from expcam.explain.backgrounds import SEEDS
from expcam.explain.explanation import Explanation
from expcam.explain.metrics import verify
from expcam.explain.problem import Problem, open_problem
from expcam.explain.progress import Progress, silent
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.explain.solver import ConstrainedRecipe, Solution, solve_constrained

DEFAULT_RECIPE = "constrained"
LARGEST_INSTANCE = 0.5
RECIPES: dict[str, Callable[[Problem, int, Progress], Solution]] = {
    "constrained": lambda problem, seed, progress: solve_constrained(
        problem, ConstrainedRecipe(), seed, progress
    ),
    "free": lambda problem, seed, progress: solve_constrained(
        problem, ConstrainedRecipe(generator="free"), seed, progress
    ),
    "paper": lambda problem, seed, progress: solve_published(
        problem, PublishedRecipe(), seed, progress
    ),
}
"""``constrained`` trains an autoencoder, ``free`` bare mask logits in the same loop, ``paper``
is the published recipe with its fixed weights."""


def explain_image(
    classifier: Classifier,
    image: ImageSource | Tensor,
    *,
    target: int | str | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    progress: Progress = silent,
) -> Explanation:
    """Find the pixels that a decision needs.

    Args:
        classifier: The classifier; it is left as it was found.
        image: A path, PIL image, array (see `open_image`), or normalised tensor ``(3, H, W)``.
        target: Class to explain, by index or label; None for the predicted one.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹; the same seed gives the same mask on the same machine.
        progress: Called after each step.

    Returns:
        The explanation, checked on the hard mask: look at ``kept`` before you rely on it.

    Raises:
        ImageError, TargetError, ClassifierError, OptionError: See their texts.
    """
    check_options(recipe, seed)
    return _explain(classifier, classifier.prepare(image), image, target, recipe, seed, progress)


def explain_images(
    classifier: Classifier,
    images: Sequence[ImageSource | Tensor],
    *,
    target: int | str | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain several images, each as `explain_image` would alone, with the same seed.

    All images are read before the first is explained, so that a bad one costs no work.

    Raises:
        OptionError: The list is empty.
    """
    check_options(recipe, seed)
    if not images:
        raise OptionError("no images given")
    prepared = [classifier.prepare(image) for image in images]
    return [
        _explain(classifier, each, image, target, recipe, seed, progress)
        for each, image in zip(prepared, images, strict=True)
    ]


def explain_instances(
    classifier: Classifier,
    image: ImageSource | Tensor,
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
        most: Stop after this many.
        progress: Called after each step.

    Returns:
        At least one explanation; the first is that of `explain_image`.
    """
    check_options(recipe, seed)
    prepared = classifier.prepare(image)
    found: list[Explanation] = []
    allowed = torch.ones_like(prepared.input[0], dtype=torch.bool)
    while len(found) < most:
        each = _explain(
            classifier, prepared, image, target, recipe, seed, progress, allowed.clone()
        )
        if found and not (each.kept and each.robustness >= 0.5 and each.area < LARGEST_INSTANCE):
            break
        found.append(each)
        allowed &= ~torch.from_numpy(each.mask).to(allowed.device)
        if not each.kept or not allowed.any():
            break
    return found


def check_options(recipe: str, seed: int) -> None:
    """Raise `OptionError` for an unknown recipe or a seed out of range."""
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe `{recipe}`; there are: {', '.join(RECIPES)}")
    if not 0 <= seed < SEEDS:
        raise OptionError(f"seed {seed} is out of range: from 0 to {SEEDS - 1}")


def _explain(
    classifier: Classifier,
    prepared: Prepared,
    image: ImageSource | Tensor,
    target: int | str | None,
    recipe: str,
    seed: int,
    progress: Progress,
    allowed: Tensor | None = None,
) -> Explanation:
    start = time.monotonic()
    x = prepared.input
    with open_problem(classifier, x, target, allowed) as problem:
        solution = RECIPES[recipe](problem, seed, progress)
        found = verify(classifier, x, solution.mask, problem.label, seed)
        confidence = float(problem.reference.logits.softmax(-1)[problem.label])
    return Explanation(
        mask=solution.mask.cpu().numpy(),
        probability=solution.probability.cpu().numpy().astype(np.float32),
        image=prepared.picture,
        photo=prepared.photo,
        input=x.cpu().numpy(),
        label=problem.label,
        label_name=classifier.label_name(problem.label),
        confidence=confidence,
        masked_confidence=found.confidence,
        area=found.area,
        kept=found.kept,
        robustness=found.robustness,
        necessary=found.necessary,
        seconds=time.monotonic() - start,
        cost=solution.cost,
        classifier=classifier.name,
        recipe=recipe,
        seed=seed,
        source=Path(image).name if isinstance(image, str | Path) else "",
    )
