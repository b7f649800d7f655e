"""The default solver: the smallest area under which the label holds, steered by constraint.

A generator ranks the pixels; the mask is the best-ranked share ``area`` of them, so that no
weight has to be tuned to make it small. While the label holds on all backgrounds of a step the
area shrinks, when it fails the area grows again, and the smallest hard mask that passed a check
on eight backgrounds is remembered throughout.

Where a mask ends it is soft at first and hardens as the training goes on. Straight-through
gradients alone, taken at a hard mask, mislead at this point: what a pixel far from the mask's
edge would do when it is switched on is not seen in a derivative taken where it is off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.errors import ClassifierError
from expcam.explain import backgrounds as bg
from expcam.explain.baselines import centred_disc, gradcam
from expcam.explain.generators import GENERATORS
from expcam.explain.metrics import predictions, smallest_level
from expcam.explain.objective import objective
from expcam.explain.problem import Problem, straight_through
from expcam.explain.progress import Progress

FIT_STEPS = 60
FIT_RATE = 3e-3
MOMENTUM = 0.7
FORWARD_COST = 1 / 3
SHRINK, GROW = 0.92, 1.04
WORTH_CHECKING = 0.85
"""A candidate is checked when its area is below this share of the best one's."""
LARGEST_START = 0.5
"""Area to start from where the first guess holds only when it is larger."""
ACCEPTABLE = 0.75
"""Share of backgrounds that a mask must pass to be better than none."""
CHECK_MARGIN = 0.3
"""Logits by which the label must lead on the backgrounds of a check."""
SOFTEST, HARDEST = 0.3, 0.05
"""Width of the mask's edge, in standard deviations of the mask logits."""


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        mask: Boolean ``(H, W)``.
        probability: Float ``(H, W)`` in ``[0, 1]``; the mask is where it exceeds 0.5.
        cost: Work done, in forward and backward passes of the classifier on one image (a
            forward pass alone counts a third).
    """

    mask: Tensor
    probability: Tensor
    cost: float


@dataclass(frozen=True)
class _Candidate:
    """A mask that was checked: its area and its probabilities ``(H, W)``."""

    area: float
    probability: Tensor


@dataclass(frozen=True, kw_only=True)
class ConstrainedRecipe:
    """Settings of `solve_constrained`; none needs tuning per image.

    Attributes:
        generator: A key of `GENERATORS`.
        weights: The terms of the objective; area and binarity are constraints here.
        backgrounds: Names of the backgrounds of each step, zero first.
        steps: Number of updates.
        shared_rate: Learning rate of the generator's filters (Adam).
        residual_rate: Step of the residual logits along the gradient, normalised to unit RMS.
    """

    generator: str = "autoencoder"
    weights: tuple[tuple[str, float], ...] = (
        ("ce", 1.0),
        ("rob", 1.0),
        ("kl", 0.1),
        ("act", 0.02),
        ("tv", 0.3),
    )
    backgrounds: Sequence[str] = bg.PUBLISHED
    steps: int = 56
    shared_rate: float = 5e-4
    residual_rate: float = 0.1


def solve_constrained(
    problem: Problem, recipe: ConstrainedRecipe, seed: int, progress: Progress
) -> Solution:
    """Shrink the mask of ``problem`` while the label holds.

    Returns the smallest mask that passed the check on all eight backgrounds. If there is none
    worth the name, the smallest that passed it on most of them; if not even that, all allowed
    pixels.
    """
    x, label = problem.x, problem.label
    rng = bg.training_rng(seed)
    check = bg.draw(bg.EVALUATION, x, rng)
    guess = first_guess(problem)
    generator, optimizers = _prepare(recipe, x, guess, seed)
    largest = float(problem.allowed.float().mean())
    first_check = check[::3]
    start = smallest_level(problem.classifier, x, guess, first_check, label, problem.allowed)
    area = min(start.area, largest, LARGEST_START)
    best = fallback = _Candidate(area=1.0, probability=problem.allowed.float())
    if _held(problem, start.mask, check) == 1:
        best = _Candidate(start.area, project(guess, problem.allowed, start.area, 1.0))
    cost = 1 + (start.tried * len(first_check) + len(check)) * FORWARD_COST

    for step in range(recipe.steps):
        width = SOFTEST * (HARDEST / SOFTEST) ** (step / recipe.steps)
        logits = generator(x)
        probability = project(logits, problem.allowed, area, width)
        hard = (probability.detach() > 0.5).float()
        backgrounds = bg.draw(recipe.backgrounds, x, rng)
        # The explanation itself is seen hard, its variants soft (see the top of this file).
        soft = probability.expand(len(backgrounds) - 1, -1, -1)
        masks = torch.cat([straight_through(probability, hard)[None], soft])[:, None]
        seen = problem.observe(probability, masks, backgrounds)
        _update(objective(seen, dict(recipe.weights)), generator, optimizers)
        cost += len(backgrounds)

        held = bool((seen.logits.detach().argmax(-1) == label).all())
        if held and area < WORTH_CHECKING * best.area:
            share = _held(problem, hard.bool(), check)
            cost += len(check) * FORWARD_COST
            # As wide as the logits spread, so that the probabilities rank all pixels.
            candidate = _Candidate(area, project(logits.detach(), problem.allowed, area, 1.0))
            held = share == 1
            if held:
                best = candidate
            elif share >= ACCEPTABLE and area < fallback.area:
                fallback = candidate
        area = max(area * SHRINK, 1 / x[0].numel()) if held else min(area * GROW, largest)
        progress("mask", step + 1, recipe.steps)
    if best.area > LARGEST_START and fallback.area < best.area:
        best = fallback
    return Solution(best.probability > 0.5, best.probability, cost)


def first_guess(problem: Problem) -> Tensor:
    """Where to start: Grad-CAM, or a centred disc where there is no feature map; ``(H, W)``."""
    try:
        guess = gradcam(problem.classifier, problem.x, problem.label)
    except ClassifierError:
        guess = centred_disc(problem.classifier, problem.x, problem.label)
    return (guess - guess.mean()) / (guess.std() + 1e-12)


def project(logits: Tensor, allowed: Tensor, area: float, width: float) -> Tensor:
    """Probabilities that exceed 0.5 on just the share ``area`` of pixels with the highest logits.

    Args:
        logits: ``(H, W)``.
        allowed: Boolean ``(H, W)``; elsewhere the probability is 0.
        area: Share of all pixels, in ``(0, 1]``.
        width: Softness of the edge, in standard deviations of the logits.
    """
    ranked = logits.detach()[allowed].sort(descending=True).values
    count = max(1, round(area * logits.numel()))
    inside = ranked[min(count, len(ranked)) - 1]
    outside = ranked[count] if count < len(ranked) else inside - 1
    spread = ranked.std(correction=0) + 1e-12
    return torch.sigmoid((logits - (inside + outside) / 2) / (width * spread)) * allowed


def _prepare(
    recipe: ConstrainedRecipe, x: Tensor, guess: Tensor, seed: int
) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A generator whose logits are the first guess, and what updates its parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        generator = GENERATORS[recipe.generator](x).to(x.device)
    shared = [p for name, p in generator.named_parameters() if name != "residual"]
    residual = [p for name, p in generator.named_parameters() if name == "residual"]
    if shared:
        fit = torch.optim.Adam(shared, lr=FIT_RATE)
        for _ in range(FIT_STEPS):
            fit.zero_grad()
            F.mse_loss(generator(x), guess).backward()
            fit.step()
    with torch.no_grad():
        for grid in residual:
            rest = (guess - generator(x))[None, None]
            grid.add_(F.adaptive_avg_pool2d(rest, (grid.shape[-2], grid.shape[-1])))
    optimizers: list[torch.optim.Optimizer] = []
    if shared:
        optimizers.append(torch.optim.Adam(shared, lr=recipe.shared_rate))
    if residual:
        optimizers.append(torch.optim.SGD(residual, lr=recipe.residual_rate, momentum=MOMENTUM))
    return generator, optimizers


def _update(loss: Tensor, generator: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for name, parameter in generator.named_parameters():
        if name == "residual" and parameter.grad is not None:
            # Adam would move cells that matter as far as cells that do not.
            parameter.grad /= parameter.grad.square().mean().sqrt() + 1e-12
    for optimizer in optimizers:
        optimizer.step()


def _held(problem: Problem, mask: Tensor, backgrounds: Tensor) -> float:
    """Share of backgrounds on which the label leads clearly.

    By `CHECK_MARGIN` logits, or by half of what it leads by on the whole image if that is less.
    """
    logits = predictions(problem.classifier, problem.x, mask[None], backgrounds)[0]
    whole = float(_lead(problem.reference.logits[None], problem.label))
    needed = max(0.0, min(CHECK_MARGIN, whole / 2))
    return float((_lead(logits, problem.label) > needed).float().mean())


def _lead(logits: Tensor, label: int) -> Tensor:
    """Logits by which a class leads the best other one, ``(n,)``."""
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(-1)
