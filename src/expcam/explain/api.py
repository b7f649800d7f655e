"""From an image to its explanation: the functions that users call."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.classifier.precision import flushed_denormals
from expcam.errors import OptionError
from expcam.explain.backgrounds import training_rng
from expcam.explain.compare.attributions import centred_disc
from expcam.explain.decision import LOOK, Decision, decide
from expcam.explain.explanation import Explanation
from expcam.explain.generators import MaskScorer, fitted
from expcam.explain.match import Matching
from expcam.explain.objectives import DEFAULT_OBJECTIVE, OBJECTIVES
from expcam.explain.pixels import Pixels
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.explain.request import (
    DEFAULT_RECIPE,
    PUBLISHED_RECIPE,
    RECIPES,
    Request,
    Target,
    Targets,
    for_each,
)
from expcam.explain.verification import verify
from expcam.progress import Progress, silent
from expcam.search.bounds import lower_bound
from expcam.search.engine import Found, Problem, search
from expcam.search.model import ClassifierModel, out_of_memory
from expcam.search.settings import Settings

CHUNKS = {"cpu": 4}
CHUNK = 32
"""Images solved together: on a CPU a few fill the cores, and more only fill its memory."""


def explain_image(
    classifier: Classifier,
    image: ImageSource | Tensor | Prepared,
    *,
    target: Target = None,
    contrast: int | str | None = None,
    objective: str = DEFAULT_OBJECTIVE,
    match: float | Mapping[str, float] | None = None,
    area: float | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    progress: Progress = silent,
) -> Explanation:
    """Find the pixels that a decision needs.

    Args:
        classifier: The classifier; it is left as it was found.
        image: A path, PIL image, array (see `open_image`), normalised tensor
            ``(channels, H, W)``, or what `Classifier.prepare` gave.
        target: Class to explain, by index or label; None for the predicted one. A list of them, or
            labels with commas, is a group that counts as one class with their summed probability.
        contrast: A second class: explain why ``target`` rather than this one, as if the
            classifier had only the two to choose from. None for all classes.
        objective: What the mask must do, a key of `OBJECTIVES`: ``robust`` (keep the label on
            any background), ``sufficient`` (on the mean colour), ``necessary`` (the label is lost
            without its pixels), ``both`` (robust and necessary), ``matching`` (robust, and keep
            the activations as far as ``match`` says).
        match: The least cosine similarity that the activations on the explanation, averaged over
            space, are to have to those on the image, above 0 and below 1: at the last tap, or a
            dictionary by tap (see `Explanation.match`). It makes the objective ``matching``,
            whose default is 0.8.
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
    (explanation,) = explain_images(
        classifier,
        [image],
        target=[target],
        contrast=[contrast],
        objective=objective,
        match=match,
        area=area,
        recipe=recipe,
        seed=seed,
        progress=progress,
    )
    return explanation


def explain_images(
    classifier: Classifier,
    images: Iterable[ImageSource | Tensor | Prepared] | Tensor,
    *,
    target: Targets = None,
    contrast: Targets = None,
    objective: str = DEFAULT_OBJECTIVE,
    match: float | Mapping[str, float] | None = None,
    area: float | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    chunk: int | None = None,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain several images, solved together: they share the classifier's batches.

    Each has its own generator, area and random numbers, and gets what `explain_image` would give
    it alone with the same seed, to the rounding of the classifier's arithmetic in a larger batch.
    All images are read and classified before the first is explained, so that a bad one costs no
    work.

    Args:
        classifier: The classifier; it is left as it was found.
        images: A list or another iterable of images, each as for `explain_image`; a batch of
            normalised tensors ``(n, channels, H, W)`` or of arrays ``(n, H, W, 3)``.
        target: One class for all images, or one for each, of which each may be a list of classes
            that count as one; None for the predicted one.
        contrast: One for all images, or one for each; see `explain_image`, as for what follows.
        objective: See `explain_image`.
        match: See `explain_image`.
        area: See `explain_image`.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹.
        chunk: How many images are solved together at most; None for as many as suit the device.
            It is halved whenever memory runs out.
        progress: Called after each step.

    Raises:
        OptionError: There are no images, or another number of classes; or see `explain_image`.
    """
    request = Request(objective=objective, match=match, area=area, recipe=recipe, seed=seed)
    images = several(images)
    if not images:
        raise OptionError("no images given")
    targets, contrasts = (
        for_each(name, given, len(images))
        for name, given in (("target", target), ("contrast", contrast))
    )
    if chunk is not None and chunk < 1:
        raise OptionError(f"chunk {chunk} is out of range: at least 1")
    require_autograd("explaining an image")
    with frozen(classifier.module), flushed_denormals(), torch.enable_grad():
        prepared = [classifier.prepare(image) for image in images]
        decisions = [
            decide(classifier, each, replace(request, target=wanted, contrast=rival))
            for each, wanted, rival in zip(prepared, targets, contrasts, strict=True)
        ]
        return _in_chunks(classifier, decisions, request, chunk, progress)


def several(
    images: Iterable[ImageSource | Tensor | Prepared] | Tensor,
) -> list[ImageSource | Tensor | Prepared]:
    """The images of a batch, or of anything else that can be gone through once.

    Raises:
        OptionError: It is a single image.
    """
    single = isinstance(images, str | bytes | Path | Image.Image | Prepared)
    if single or (isinstance(images, Tensor | np.ndarray) and images.ndim < 4):
        what = "batch of one" if isinstance(images, Tensor | np.ndarray) else "list"
        raise OptionError(
            f"explain_images takes several images, not one {type(images).__name__}: "
            f"give a {what}, or call explain_image"
        )
    if not isinstance(images, Iterable):
        raise OptionError(f"images are a list or a batch, not {type(images).__name__}")
    return list(images)


def _in_chunks(
    classifier: Classifier,
    decisions: list[Decision],
    request: Request,
    chunk: int | None,
    progress: Progress,
) -> list[Explanation]:
    """Explain as many images at a time as memory holds; only those of one size share a batch.

    Decisions that are done with are taken from the list.
    """
    if request.recipe == PUBLISHED_RECIPE:  # it solves one by one in any case
        chunk = 1
    chunk = chunk or CHUNKS.get(classifier.device.type, CHUNK)
    done: list[Explanation] = []
    images = len(decisions)
    while decisions:
        _, same_size = next(groupby(decisions, lambda each: each.x.shape))
        some = list(same_size)[:chunk]
        part = _part_of(progress, len(done), len(some), images)
        failed = False
        try:
            done += explained(some, request, part)
            del decisions[: len(some)]  # and with them what is known of the whole images
        except RuntimeError as error:
            if len(some) == 1 or not out_of_memory(error):
                raise
            chunk, failed = len(some) // 2, True
        # Outside of the handler, where the error no longer holds what filled the memory.
        if failed and classifier.device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def explained(
    decisions: Sequence[Decision],
    request: Request,
    progress: Progress,
    *,
    allowed: Tensor | None = None,
) -> list[Explanation]:
    """Find and verify the masks of decisions on images of one size, in one batch.

    Args:
        decisions: Of one classifier, inside `frozen`.
        request: What is asked for.
        progress: Called after each step.
        allowed: Boolean ``(H, W)``; pixels that masks may keep. None for all.
    """
    start = time.monotonic()
    if allowed is None:
        allowed = torch.ones_like(decisions[0].x[0], dtype=torch.bool)
    if request.recipe == PUBLISHED_RECIPE:
        (decision,) = decisions
        found = [solve_published(decision, allowed, PublishedRecipe(), request.seed, progress)]
    else:
        problems = [problem_of(decision, request, allowed) for decision in decisions]
        matching = _matching(decisions[0], request)
        taps = [] if matching is None else list(matching.wanted)
        model = ClassifierModel(decisions[0].classifier, taps)
        found = search(problems, model, Settings(), progress)
    return [
        _verified(decision, each, request, start, len(decisions))
        for decision, each in zip(decisions, found, strict=True)
    ]


def problem_of(decision: Decision, request: Request, allowed: Tensor) -> Problem:
    """The search that a request asks for."""
    objective = OBJECTIVES[request.objective]
    guess = first_guess(decision)
    generator = fitted(RECIPES[request.recipe], decision.x, guess, request.seed)
    matching = _matching(decision, request)
    return Problem(
        parts=Pixels(
            decision.classifier,
            decision.x,
            decision.label,
            allowed,
            matching,
            objective.likeness,
        ),
        scorer=MaskScorer(generator, decision.x),
        steps=objective.steps,
        checks=objective.checks,
        fresh=objective.fresh,
        share=request.area,
        rng=training_rng(request.seed),
    )


def _matching(decision: Decision, request: Request) -> Matching | None:
    """The activations that a search looks at; None where it looks at none."""
    if request.match is not None:
        return Matching.of(decision.whole, request.match)
    wanted = OBJECTIVES[request.objective].likeness and decision.whole.activations
    return Matching.of(decision.whole, 1.0) if wanted else None


def first_guess(decision: Decision) -> Tensor:
    """Where a search starts: Grad-CAM, or a centred disc where that says nothing, ``(H, W)``."""
    guess = decision.cam
    if guess is None or float(guess.std()) == 0:
        guess = centred_disc(decision.classifier, decision.x, decision.label)
    return (guess - guess.mean()) / guess.std()


def _verified(
    decision: Decision, found: Found, request: Request, start: float, together: int
) -> Explanation:
    """The explanation with the figures of its hard mask."""
    classifier, image = decision.classifier, decision.image
    checked = verify(decision, found.keep, request.seed)
    contrast = decision.contrast
    matching = None if request.match is None else _matching(decision, request)
    return Explanation(
        mask=found.keep.cpu().numpy(),
        probability=found.scores.cpu().numpy().astype(np.float32),
        image=image.picture,
        photo=image.photo,
        input=decision.x.cpu().numpy(),
        label=decision.target,
        label_name=decision.name,
        group=decision.group,
        tied=decision.tied,
        predicted=decision.predicted,
        confidence=decision.confidence,
        masked_confidence=checked.confidence,
        area=checked.area,
        kept=checked.kept,
        robustness=checked.robustness,
        necessary=decision.predicted and checked.necessary,
        draws=checked.draws,
        draws_kept=checked.draws_kept,
        bound=lower_bound(checked.draws_kept, checked.draws),
        match=checked.match,
        match_controls=checked.match_controls,
        match_asked={} if matching is None else matching.wanted,
        # That no block as large as the image can be dropped says nothing.
        cell=found.size if found.size < max(found.keep.shape) else 0,
        seconds=(time.monotonic() - start) / together,
        cost=LOOK + found.passes + checked.passes,
        objective=request.objective,
        contrast=contrast,
        contrast_name="" if contrast is None else classifier.label_name(contrast),
        classifier=classifier.name,
        recipe=request.recipe,
        seed=request.seed,
        source=image.source,
        mean_colour=image.mean_colour,
    )


def _part_of(progress: Progress, before: int, now: int, images: int) -> Progress:
    """The progress of one chunk as a part of the whole."""

    def report(stage: str, done: int, total: int) -> None:
        progress(stage, before * total + now * done, images * total)

    return report
