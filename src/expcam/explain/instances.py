"""Separate explanations of one class on one image: of each object, and of one in other ways.

Two explanations are of two objects only where the class has two sources of evidence. Grad-CAM has
a peak at each: a summit that rises above every pass to a higher one by a share of the highest
(its prominence). The image is shared out among the summits, each pixel to the nearest. What has
the class on its own, all the rest at the mean colour or blurred, is an object's zone; so an
object's zone is connected, zones do not overlap, and removing one leaves the others' evidence and
not its own. The explanation of an object keeps pixels of its zone only, and the label on the mean
colour; on how many of the unseen backgrounds it does is said of it, as of every explanation.
(Noise in the place of other objects is harder to withstand than in that of a background.)

What is sufficient beside an explanation but of the same zone is an alternative, no further object.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier, Prepared
from expcam.classifier.precision import flushed_denormals
from expcam.errors import OptionError
from expcam.explain.api import explained
from expcam.explain.backgrounds import draw, training_rng
from expcam.explain.compare.attributions import occlusion
from expcam.explain.decision import Decision, decide
from expcam.explain.explanation import Explanation
from expcam.explain.request import DEFAULT_RECIPE, Request, Target
from expcam.explain.verification import keeps
from expcam.progress import Progress, silent

GRID = 28
"""Cells on the shorter side at which summits are looked for."""
PROMINENCE = 0.15
"""The least prominence of a summit, as a share of the highest."""
ALONE: Sequence[str] = ("zero", "blur")
"""A zone is an object's where it has the class by itself before one of these backgrounds."""
LARGEST = 0.5
"""An alternative is worth showing only where it has less than so much of the pixels."""
HELD = 0.5
"""It must keep the label on this share of the unseen backgrounds."""

MOST = 5
"""So many objects are looked for."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the image as the classifier sees it."""
Point = tuple[float, float]
"""From the left and from the top, in the same pixels."""


def explain_instances(
    classifier: Classifier,
    image: ImageSource | Tensor | Prepared,
    *,
    target: Target = None,
    boxes: Sequence[Box] = (),
    points: Sequence[Point] = (),
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    most: int = MOST,
    progress: Progress = silent,
) -> list[Explanation]:
    """Explain each object of a class by itself, where there are several.

    What counts as an object is said at the top of this module. An object for which no mask keeps
    the label on the mean colour is left out, unless you have said that it is there. It costs a
    mask for each zone, and at most one more.

    Args:
        classifier: The classifier; it is left as it was found.
        image: See `explain_image`.
        target: Class to explain; None for the predicted one.
        boxes: Where the objects are, if you know; nothing is looked for then, and explanations
            keep pixels of one box each.
        points: One point on each object, instead of boxes: each pixel belongs to the nearest.
        recipe: A key of `RECIPES`.
        seed: From 0 below 2³¹.
        most: At most so many objects are looked for, the most prominent, at least 1.
        progress: Called after each step.

    Returns:
        One explanation for each object, the most prominent first, or in the order of the boxes or
        points; where there are not several, that of `explain_image`.

    Raises:
        OptionError: ``most`` is below 1, boxes and points are both given, or one of them lies
            outside of the image; or see `explain_image`.
    """
    if most < 1:
        raise OptionError(f"most {most} is out of range: at least 1")
    boxes = [_numbers("box", box, 4) for box in boxes]
    points = [_numbers("point", point, 2) for point in points]
    if boxes and points:
        raise OptionError("give boxes or points, not both")
    request = Request(target=target, recipe=recipe, seed=seed)
    require_autograd("explaining an image")
    with frozen(classifier.module), flushed_denormals(), torch.enable_grad():
        decision = decide(classifier, classifier.prepare(image), request)
        size = decision.x.shape[-2:]
        if boxes:
            zones = [_inside(box, size) for box in boxes]
        elif points:
            zones = _around([_at(point, size) for point in points], size)
        else:
            zones = object_zones(decision, most)
        every = [
            explained([decision], request, progress, allowed=zone.to(decision.x.device))[0]
            for zone in zones
        ]
        if boxes or points or len(zones) == 1:
            return every
        return [each for each in every if each.kept] or explained([decision], request, progress)


def explain_alternatives(
    classifier: Classifier,
    explanation: Explanation,
    *,
    most: int = 1,
    progress: Progress = silent,
) -> list[Explanation]:
    """Find other pixels that keep the label on any background: what else it could rest on.

    They are of the same object (see the top of this module), and found one after the other, the
    pixels of the earlier ones forbidden, until none keeps the label on the mean colour and on at
    least half of the unseen backgrounds with less than half of the pixels.

    Args:
        classifier: The classifier that was explained; it is left as it was found.
        explanation: What alternatives are wanted to, of any recipe.
        most: At most so many, at least 1.
        progress: Called after each step.

    Returns:
        Those that were found; none where the label needs pixels of the explanation.

    Raises:
        OptionError: ``most`` is below 1.
    """
    if most < 1:
        raise OptionError(f"most {most} is out of range: at least 1")
    request = Request(
        target=explanation.group or explanation.label,
        contrast=explanation.contrast,
        recipe=explanation.recipe,
        seed=explanation.seed,
    )
    require_autograd("explaining an image")
    found: list[Explanation] = []
    with frozen(classifier.module), flushed_denormals(), torch.enable_grad():
        decision = decide(classifier, explanation.prepared(classifier.device), request)
        mask = torch.from_numpy(explanation.mask)
        own = max(object_zones(decision, MOST), key=lambda zone: int((zone & mask).sum()))
        allowed = (own & ~mask).to(decision.x.device)
        while len(found) < most and allowed.any():
            (each,) = explained([decision], request, progress, allowed=allowed)
            if not each.kept or each.robustness < HELD or each.area >= LARGEST:
                break
            found.append(each)
            allowed = allowed & ~torch.from_numpy(each.mask).to(allowed.device)
    return found


def object_zones(decision: Decision, most: int) -> list[Tensor]:
    """The zone of each object, boolean ``(H, W)``: all of the image where there are not several.

    Of a classifier without a feature map, occlusion stands in for Grad-CAM.
    """
    x, size = decision.x, decision.x.shape[-2:]
    evidence = decision.cam
    if evidence is None:
        evidence = occlusion(decision.classifier, x, decision.label)
    cell = max(1.0, min(size) / GRID)
    grid = [round(side / cell) for side in size]
    coarse = F.interpolate(evidence.clamp_min(0)[None, None], grid, mode="area")[0, 0]
    places = summits(coarse.cpu().numpy(), PROMINENCE)[:most]
    scale = np.array(size) / np.array(grid)
    zones = nearest([tuple((np.array(place) + 0.5) * scale) for place in places], size)
    grounds = draw(ALONE, x, training_rng(0))  # neither of them is random
    alone = keeps(decision.classifier, x, zones.to(x.device), grounds, decision.label).any(1)
    own = [zone for zone, kept in zip(zones, alone.tolist(), strict=True) if kept]
    return own if len(own) > 1 else [torch.ones(size, dtype=torch.bool)]


def summits(heights: npt.NDArray[np.floating], least: float) -> list[tuple[int, int]]:
    """Rows and columns of a map's summits, the most prominent first.

    A summit's prominence is its height above the highest pass to a higher summit; the highest
    summit's is its height. Cells that touch at a corner are neighbours.

    Args:
        heights: ``(rows, columns)``, not negative.
        least: The least prominence, as a share of the highest summit's height.
    """
    rows, columns = heights.shape
    owner = np.full((rows, columns), -1)
    tops: list[tuple[int, int]] = []
    prominence: list[float] = []
    joined: list[int] = []  # the summit whose area a summit's has become a part of

    def root(summit: int) -> int:
        while joined[summit] != summit:
            summit = joined[summit]
        return summit

    # From the top down: a cell without a neighbour above it is a summit, one between the areas
    # of two is the pass between them.
    for cell in np.argsort(-heights, axis=None, kind="stable"):
        row, column = divmod(int(cell), columns)
        around = owner[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        near = sorted({root(int(each)) for each in around[around >= 0]})
        if not near:
            near = [len(tops)]
            tops.append((row, column))
            prominence.append(float(heights[row, column]))
            joined.append(near[0])
        owner[row, column] = near[0]
        for lower in near[1:]:  # summits are numbered from the highest down
            prominence[lower] = float(heights[tops[lower]] - heights[row, column])
            joined[lower] = near[0]
    order = sorted(range(len(tops)), key=lambda each: -prominence[each])
    needed = least * float(heights.max())
    return [tops[each] for each in order if prominence[each] >= needed]


def nearest(points: Sequence[tuple[float, ...]], size: Sequence[int]) -> Tensor:
    """The pixels that are nearest to each point, boolean ``(points, H, W)``.

    Args:
        points: Rows and columns, in pixels.
        size: Height and width.
    """
    rows, columns = (torch.arange(side) + 0.5 for side in size)
    distances = torch.stack(
        [torch.hypot(rows[:, None] - row, columns[None] - column) for row, column in points]
    )
    numbers = torch.arange(len(points)).view(-1, 1, 1)
    return distances.argmin(0) == numbers


def _numbers(what: str, given: Sequence[float], count: int) -> Any:
    """A box or a point as so many finite numbers."""
    numbers = tuple(float(each) for each in given)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise OptionError(f"{what} {numbers} is not {count} numbers of pixels")
    return numbers


def _around(points: Sequence[tuple[float, float]], size: Sequence[int]) -> list[Tensor]:
    zones = list(nearest(points, size))
    for point, zone in zip(points, zones, strict=True):
        if not zone.any():
            raise OptionError(f"no pixel is nearest to point {point[::-1]}: another is as near")
    return zones


def _inside(box: Box, size: Sequence[int]) -> Tensor:
    left, top, right, bottom = (max(0, round(each)) for each in box)
    height, width = size
    zone = torch.zeros(height, width, dtype=torch.bool)
    zone[top:bottom, left:right] = True
    if not zone.any():
        raise OptionError(
            f"box {box} holds no pixel of the image: left, top, right and bottom, "
            f"in pixels, of {width} × {height}"
        )
    return zone


def _at(point: Point, size: Sequence[int]) -> tuple[float, float]:
    left, top = point
    height, width = size
    if not (0 <= left < width and 0 <= top < height):
        raise OptionError(
            f"point {point} lies outside of the image of {width} × {height} pixels: "
            "first the distance from the left, then from the top"
        )
    return top, left
