"""From an image to its explanation: the functions that users call."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from expcam.classifier.frozen import frozen
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.errors import OptionError, TargetError
from expcam.explain.explanation import Explanation
from expcam.explain.memory import out_of_memory
from expcam.explain.metrics import clopper_pearson, verify
from expcam.explain.objectives import (
    DEFAULT_OBJECTIVE,
    DEFAULT_RECIPE,
    OBJECTIVES,
    PUBLISHED_RECIPE,
)
from expcam.explain.problem import FORWARD, Problem, pose
from expcam.explain.recipes import RECIPES, check_options
from expcam.explain.task import Task
from expcam.progress import Progress, silent

LARGEST_INSTANCE = 0.5
CHUNKS = {"cpu": 4}
CHUNK = 32
"""Images solved together: on a CPU a few fill the cores, and more only fill its memory."""


def explain_image(
    classifier: Classifier,
    image: ImageSource | Tensor,
    *,
    target: int | str | None = None,
    contrast: int | str | None = None,
    objective: str = DEFAULT_OBJECTIVE,
    area: float | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    progress: Progress = silent,
) -> Explanation:
    """Find the pixels that a decision needs.

    Args:
        classifier: The classifier; it is left as it was found.
        image: A path, PIL image, array (see `open_image`), or normalised tensor ``(3, H, W)``.
        target: Class to explain, by index or label; None for the predicted one.
        contrast: A second class: explain why ``target`` rather than this one, as if the
            classifier had only the two to choose from. None for all classes.
        objective: What the mask must do, a key of `OBJECTIVES`: ``robust`` (keep the label on
            any background), ``sufficient`` (on the mean colour), ``necessary`` (the label is lost
            without its pixels), ``both`` (robust and necessary).
        area: The share of pixels that the mask is to have, in (0, 1]: the best mask of that
            size. None for the smallest mask that does what was asked.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹; the same seed gives the same mask on the same machine, on a CPU.
        progress: Called after each step.

    Returns:
        The explanation, checked on the hard mask: look at ``holds`` before you rely on it.

    Raises:
        ImageError, TargetError, ClassifierError, OptionError: See their texts.
    """
    task = Task(objective, area, seed)
    check_options(recipe, task)
    prepared = classifier.prepare(image)
    return _solve(
        classifier, [prepared], [_source(image)], target, contrast, recipe, task, progress
    )[0]


def explain_images(
    classifier: Classifier,
    images: Sequence[ImageSource | Tensor],
    *,
    target: int | str | None = None,
    contrast: int | str | None = None,
    objective: str = DEFAULT_OBJECTIVE,
    area: float | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    chunk: int | None = None,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain several images, solved together: they share the classifier's passes.

    Each has its own generator, area and random numbers, and gets what `explain_image` would give
    it alone with the same seed, to the rounding of the classifier's arithmetic in a larger batch.

    All images are read and classified before the first is explained, so that a bad one costs no
    work; for that each takes a forward pass more than alone.

    Args:
        classifier: The classifier; it is left as it was found.
        images: See `explain_image`, as are the other arguments.
        target: One class for all images; None for the predicted one of each.
        contrast: See `explain_image`.
        objective: See `explain_image`.
        area: See `explain_image`.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹.
        chunk: How many images are solved together at most; None for as many as suit the device.
            It is halved whenever memory runs out.
        progress: Called after each step.

    Raises:
        OptionError: The list is empty, or see `explain_image`.
    """
    task = Task(objective, area, seed)
    check_options(recipe, task)
    if not images:
        raise OptionError("no images given")
    if chunk is not None and chunk < 1:
        raise OptionError(f"chunk {chunk} is out of range: at least 1")
    prepared = [classifier.prepare(image) for image in images]
    if len(images) > 1:
        with frozen(classifier.module), torch.enable_grad():
            for each in prepared:
                _posed(classifier, each, target, contrast, task)
    if recipe == PUBLISHED_RECIPE:  # it solves one by one in any case
        chunk = 1
    chunk = chunk or CHUNKS.get(classifier.device.type, CHUNK)
    done: list[Explanation] = []
    while len(done) < len(images):
        # Images of one size only fit into one batch.
        rest = prepared[len(done) :]
        _, same_size = next(groupby(rest, lambda each: each.input.shape))
        some = list(same_size)[:chunk]
        sources = [_source(image) for image in images[len(done) :][: len(some)]]
        failed = False
        try:
            done += _solve(
                classifier,
                some,
                sources,
                target,
                contrast,
                recipe,
                task,
                _part_of(progress, len(done), len(some), len(images)),
            )
        except RuntimeError as error:
            if len(some) == 1 or not out_of_memory(error):
                raise
            chunk, failed = len(some) // 2, True
        # Outside of the handler, where the error no longer holds what filled the memory.
        if failed and classifier.device.type == "cuda":
            torch.cuda.empty_cache()
    looked_at = FORWARD if len(images) > 1 else 0.0
    return [replace(each, cost=each.cost + looked_at) for each in done]


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
        most: Stop after this many, at least 1.
        progress: Called after each step.

    Returns:
        At least one explanation; the first is that of `explain_image`.
    """
    if most < 1:
        raise OptionError(f"most {most} is out of range: at least 1")
    task = Task(DEFAULT_OBJECTIVE, None, seed)
    check_options(recipe, task)
    prepared = classifier.prepare(image)
    found: list[Explanation] = []
    allowed = torch.ones_like(prepared.input[0], dtype=torch.bool)
    while len(found) < most:
        (each,) = _solve(
            classifier,
            [prepared],
            [_source(image)],
            target,
            None,
            recipe,
            task,
            progress,
            allowed.clone(),
        )
        if found and not (each.kept and each.robustness >= 0.5 and each.area < LARGEST_INSTANCE):
            break
        found.append(each)
        allowed &= ~torch.from_numpy(each.mask).to(allowed.device)
        if not each.kept or not allowed.any():
            break
    return found


def _solve(
    classifier: Classifier,
    prepared: Sequence[Prepared],
    sources: Sequence[str],
    target: int | str | None,
    contrast: int | str | None,
    recipe: str,
    task: Task,
    progress: Progress,
    allowed: Tensor | None = None,
) -> list[Explanation]:
    """Explain images of one size in one batch."""
    start = time.monotonic()
    with frozen(classifier.module), torch.enable_grad():
        problems = [_posed(classifier, each, target, contrast, task, allowed) for each in prepared]
        solutions = RECIPES[recipe](problems, task, progress)
        verified = [
            verify(problem.classifier, problem.x, solution.mask, problem.label, task.seed)
            for problem, solution in zip(problems, solutions, strict=True)
        ]
    seconds = (time.monotonic() - start) / len(problems)
    explanations = []
    for problem, solution, found, each, source in zip(
        problems, solutions, verified, prepared, sources, strict=True
    ):
        problem.passes.forward += found.passes
        explanations.append(
            Explanation(
                mask=solution.mask.cpu().numpy(),
                probability=solution.probability.cpu().numpy().astype(np.float32),
                image=each.picture,
                photo=each.photo,
                input=each.input.cpu().numpy(),
                label=problem.target,
                label_name=classifier.label_name(problem.target),
                predicted=problem.predicted,
                confidence=float(problem.reference.logits.softmax(-1)[problem.label]),
                masked_confidence=found.confidence,
                area=found.area,
                kept=found.kept,
                robustness=found.robustness,
                necessary=problem.predicted and found.necessary,
                draws=found.draws,
                draws_kept=found.draws_kept,
                bound=clopper_pearson(found.draws_kept, found.draws),
                cell=solution.cell,
                seconds=seconds,
                cost=problem.passes.cost,
                objective=task.objective,
                contrast=problem.contrast,
                contrast_name=(
                    "" if problem.contrast is None else classifier.label_name(problem.contrast)
                ),
                classifier=classifier.name,
                recipe=recipe,
                seed=task.seed,
                source=source,
            )
        )
    return explanations


def _posed(
    classifier: Classifier,
    prepared: Prepared,
    target: int | str | None,
    contrast: int | str | None,
    task: Task,
    allowed: Tensor | None = None,
) -> Problem:
    """One image's problem, or the error that says why there is none; one forward pass."""
    problem = pose(classifier, prepared.input, target, contrast, allowed)
    if OBJECTIVES[task.objective].removal and not problem.predicted:
        raise TargetError(
            f"the classifier does not say `{classifier.label_name(problem.target)}`, so "
            f"nothing is necessary for it (objective `{task.objective}`)"
        )
    return problem


def _source(image: ImageSource | Tensor) -> str:
    return Path(image).name if isinstance(image, str | Path) else ""


def _part_of(progress: Progress, before: int, now: int, images: int) -> Progress:
    """The progress of one chunk as a part of the whole."""

    def report(stage: str, done: int, total: int) -> None:
        progress(stage, before * total + now * done, images * total)

    return report
