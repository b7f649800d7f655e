"""The default solver: the smallest area under which the label holds, steered by constraint.

A generator ranks the pixels; the mask is the best-ranked share ``area`` of them, so that no
weight has to be tuned to make it small. While the label holds the area shrinks, when it fails
the area grows again. The smallest hard mask that passed a check on all backgrounds is remembered
throughout, and in the end it is pruned.

Each step looks at one background only, the next one in turn: many cheap steps rank the pixels
better than few dear ones. Where a mask ends it is soft at first and hardens as the training goes
on. Straight-through gradients alone, taken at a hard mask, mislead: what a pixel far from the
mask's edge would do when it is switched on is not seen in a derivative taken where it is off.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expcam.errors import ClassifierError
from expcam.explain import backgrounds as bg
from expcam.explain.baselines import centred_disc, gradcam_at
from expcam.explain.checks import Check, leads, needed
from expcam.explain.generators import fitted
from expcam.explain.metrics import LEVELS
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.problem import Problem, Response, respond
from expcam.explain.progress import Progress
from expcam.explain.pruning import prune
from expcam.explain.terms import Observation, objective

MATCHING = {"act", "kl", "rob"}
"""Terms that compare with what the classifier makes of the whole image."""
REMOVAL = "removal"
"""Stands for the image without the mask's pixels where others are named by their background."""
POLISH = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the best mask's area that are tried at the end, the smallest first."""
RELAXED_AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""What is tried where no mask passed on all views."""


@dataclass(frozen=True)
class Task:
    """What is asked of a solver.

    Attributes:
        objective: A key of `OBJECTIVES`.
        area: The share of pixels that the mask must have; None for as few as can be.
        seed: The same seed gives the same mask on the same machine, on a CPU.
    """

    objective: str
    area: float | None
    seed: int


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        mask: Boolean ``(H, W)``.
        probability: Float ``(H, W)`` in ``[0, 1]``; the mask is where it exceeds 0.5.
        cell: Side in pixels of the blocks at which the mask is locally minimal; 0 where it was
            not pruned.
    """

    mask: Tensor
    probability: Tensor
    cell: int


@dataclass(frozen=True, kw_only=True)
class ConstrainedRecipe:
    """Settings of `solve_constrained`; none needs tuning per image.

    Attributes:
        generator: A key of `GENERATORS`.
        weights: Terms of the objective for what keeps the mask's pixels; area and binarity are
            constraints here. Terms that match the whole image's activations and output can be
            added; they made masks that keep the label on one background several times larger.
        removal_weights: Terms for the image without them.
        steps: Number of updates, at most.
        patience: Stop when so many steps of the second half have found no better mask.
        shared_rate: Learning rate of the generator's filters (Adam).
        residual_rate: Step of the residual logits along the normalised gradient, in standard
            deviations of the mask logits.
        momentum: Of the residual logits.
        softest: Width of the mask's edge at the first step, in standard deviations of the logits.
        hardest: The same at the last step.
        shrink: Factor on the area when the label held; this and ``grow`` are squared where no
            background of the objective is random.
        grow: Factor on the area when it failed.
        margin: Logits by which the label must lead on the noise of a step to have held; more
            than a check asks for, because one draw stands for several.
        gain: A mask is checked when its area is below this share of the best one's.
        pause: Steps without a check after one that failed; the area grows meanwhile.
        interval: Steps between checks where the area is given.
        largest_start: Area to start from where the first guess holds only when it is larger:
            its ranking is crude, and the area grows again where it must.
        acceptable: Share of views that a mask must pass to be better than all pixels.
        most_passes: Pruning begins no further round beyond so many passes.
        mixed_precision: Whether training steps run in bfloat16; None for yes on a GPU. Checks
            never do.
    """

    generator: str = "autoencoder"
    weights: tuple[tuple[str, float], ...] = (("hold", 1.0), ("tv", 0.3))
    removal_weights: tuple[tuple[str, float], ...] = (("lose", 1.0), ("tv", 0.3))
    steps: int = 120
    patience: int = 45
    shared_rate: float = 1e-4
    residual_rate: float = 0.03
    momentum: float = 0.7
    softest: float = 0.3
    hardest: float = 0.05
    shrink: float = 0.95
    grow: float = 1.03
    margin: float = 1.0
    gain: float = 0.85
    pause: int = 3
    interval: int = 10
    largest_start: float = 0.2
    acceptable: float = 0.75
    most_passes: float = 265
    mixed_precision: bool | None = None


@dataclass(frozen=True)
class _Candidate:
    """A mask that was checked.

    Attributes:
        area: Share of pixels.
        ranks: Probabilities ``(H, W)`` that rank all pixels; the mask is where they exceed 0.5.
        margin: What the check said; above 0 the mask holds.
    """

    area: float
    ranks: Tensor
    margin: float


def solve_constrained(
    problems: Sequence[Problem], recipe: ConstrainedRecipe, task: Task, progress: Progress
) -> list[Solution]:
    """Shrink the masks of several problems while what is asked for holds.

    The problems share passes of the classifier and nothing else: each has its own generator,
    area and random numbers, as it would have alone.

    Args:
        problems: Of the same classifier and image size.
        recipe: Settings.
        task: What is asked for.
        progress: Called after each step.

    Returns:
        For each problem the smallest mask that passed the check, pruned; with an exact area, the
        best one of that area. Where no mask passed, one of `RELAXED_AREAS` that did on most
        views, and if not even that, all allowed pixels.
    """
    searches = [Search(problem, recipe, task) for problem in problems]
    taps = any(name == "act" for name, _ in recipe.weights)
    device = problems[0].x.device
    mixed = device.type == "cuda" if recipe.mixed_precision is None else recipe.mixed_precision
    for step in range(recipe.steps):
        running = [search for search in searches if not search.finished]
        if not running:
            break
        composites = [search.propose() for search in running]
        half = torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()
        with half:
            responses = respond([each.problem for each in running], composites, taps=taps)
        losses = [
            search.judge(response) for search, response in zip(running, responses, strict=True)
        ]
        torch.stack(losses).sum().backward()
        for search in running:
            search.learn()
        progress("mask", step + 1, recipe.steps)
    progress("mask", recipe.steps, recipe.steps)
    return [search.solution() for search in searches]


class Search:
    """The state of one problem in `solve_constrained`.

    A step is `propose`, `judge` and, after the backward pass, `learn`.
    """

    def __init__(self, problem: Problem, recipe: ConstrainedRecipe, task: Task) -> None:
        self.problem = problem
        self.finished = False
        self._recipe, self._budget = recipe, task.area
        self._objective = OBJECTIVES[task.objective]
        self._weights = {
            **(dict(recipe.weights) if self._objective.training else {}),
            **(dict(recipe.removal_weights) if self._objective.removal else {}),
        }
        if not problem.predicted:
            # What the classifier makes of the whole image is another class.
            self._weights = {name: w for name, w in self._weights.items() if name not in MATCHING}
        self._needed = {
            view: needed(problem, view, recipe.margin)
            for view in (*self._objective.training, REMOVAL)
        }
        # Where no background is random, a lead is known and need not be waited for.
        self._haste = 1 if bg.RANDOM.intersection(self._objective.training) else 2
        self._rng = bg.training_rng(task.seed)
        self._check = Check(problem, self._objective, self._rng)
        guess = first_guess(problem)
        self._generator = fitted(recipe.generator, problem.x, guess, task.seed)
        self._optimizers = _optimizers(self._generator, recipe)
        self._largest = float(problem.allowed.float().mean())
        # Of a given area nothing is known yet; else all pixels are the mask to improve on.
        whole = -torch.inf if task.area else float(self._check.margins(problem.allowed[None]))
        self._best = _Candidate(self._largest, problem.allowed.float(), whole)
        self._leads: dict[str, float] = {}
        self._step = self._paused_until = self._found_at = 0
        self._area = min(task.area or self._start(guess), self._largest)

    def propose(self) -> Tensor:
        """The composites of the next step, ``(n, 3, H, W)``."""
        x, recipe = self.problem.x, self._recipe
        self._logits: Tensor = self._generator(x)
        width = recipe.softest * (recipe.hardest / recipe.softest) ** (self._step / recipe.steps)
        keep = self._probability = project(self._logits, self.problem.allowed, self._area, width)
        self._views, composites = [], []
        if self._objective.training:
            name = self._objective.training[self._step % len(self._objective.training)]
            self._views.append(name)
            composites.append(keep * x + (1 - keep) * bg.BACKGROUNDS[name](x, self._rng))
        if self._objective.removal:
            self._views.append(REMOVAL)
            composites.append((1 - keep) * x)
        return torch.stack(composites)

    def judge(self, response: Response) -> Tensor:
        """The objective of this step."""
        logits = response.logits.float()
        kept = len(logits) - int(self._objective.removal)
        lead = leads(logits.detach(), self.problem.label)
        lead[kept:] *= -1
        for view, value in zip(self._views, lead.tolist(), strict=True):
            self._leads[view] = value - self._needed[view]
        seen = Observation(
            probability=self._probability,
            logits=logits[:kept],
            removed=logits[kept:],
            activations={name: each[:kept] for name, each in response.activations.items()},
            reference=self.problem.reference,
        )
        return objective(seen, self._weights)

    def learn(self) -> None:
        """Update the generator from its gradients, check the mask, choose the next area."""
        recipe, step = self._recipe, self._step
        self._update()
        if self._budget is None:
            # What the lead was when each view was last seen: the hardest view decides.
            views = len(set(self._objective.training)) + self._objective.removal
            held = len(self._leads) == views and min(self._leads.values()) > 0
            held = held and step >= self._paused_until
            if held and self._area < recipe.gain * self._best.area:
                held = self._consider()
            factor = (recipe.shrink if held else recipe.grow) ** self._haste
            self._area = min(max(self._area * factor, 1 / self._logits.numel()), self._largest)
            # While the edge is soft, a mask may hold that does not when it is cut.
            waited = step - max(self._found_at, recipe.steps // 2)
            self.finished = waited >= recipe.patience
        elif step % recipe.interval == recipe.interval - 1:
            self._consider()
        self._step += 1

    def solution(self) -> Solution:
        """The best mask, pruned unless its area was given."""
        if self._budget is not None:
            return Solution(self._best.ranks > 0.5, self._best.ranks, cell=0)
        last = self._generator(self.problem.x).detach()
        self._polish(last)
        best = self._best
        if best.margin <= 0:
            best = self._relaxed(last)
            return Solution(best.ranks > 0.5, best.ranks, cell=0)
        pruned = prune(best.ranks > 0.5, self._check, self._recipe.most_passes)
        ranks = torch.where(pruned.mask, best.ranks, best.ranks.clamp(max=0.5))
        return Solution(pruned.mask, ranks, pruned.cell)

    def _consider(self) -> bool:
        """Check the present mask and remember it if it is the best; whether it holds."""
        exact = self._budget is not None
        candidate = self._tried(self._logits.detach(), self._area, all_views=exact)
        if candidate.margin > (self._best.margin if exact else 0):
            self._best, self._found_at = candidate, self._step
        elif not exact:
            self._paused_until = self._step + self._recipe.pause
        return candidate.margin > 0

    def _tried(self, logits: Tensor, area: float, *, all_views: bool = False) -> _Candidate:
        # An edge as wide as the logits spread, so that the probabilities rank all pixels.
        ranks = project(logits, self.problem.allowed, area, 1.0)
        margin = self._check.margins((ranks > 0.5)[None], all_views=all_views)
        return _Candidate(min(area, self._largest), ranks, float(margin))

    def _start(self, guess: Tensor) -> float:
        """Area to start from: of a level set of the first guess that holds, by halving."""
        low, high = 0, len(LEVELS) - 1
        while low < high:
            middle = (low + high) // 2
            candidate = self._tried(guess, LEVELS[middle])
            if candidate.margin > 0:
                self._best, high = candidate, middle
            else:
                low = middle + 1
        return min(LEVELS[low], self._recipe.largest_start)

    def _polish(self, last: Tensor) -> None:
        """Try smaller level sets of the best ranking and of the last logits."""
        best = self._best
        for logits in (best.ranks, last):
            for factor in POLISH:
                if factor * best.area >= self._best.area:
                    break
                candidate = self._tried(logits, factor * best.area)
                if candidate.margin > 0:
                    self._best = candidate
                    break

    def _relaxed(self, last: Tensor) -> _Candidate:
        """Of a few level sets of the last logits the smallest that holds on most views."""
        for area in (each for each in RELAXED_AREAS if each < self._largest):
            ranks = project(last, self.problem.allowed, area, 1.0)
            if self._check.share(ranks > 0.5) >= self._recipe.acceptable:
                return _Candidate(area, ranks, 0.0)
        return self._best

    def _update(self) -> None:
        for name, parameter in self._generator.named_parameters():
            if name == "residual" and parameter.grad is not None:
                # One scale for all cells: Adam would move those that do not matter as far as
                # those that do. In units of the spread, because only the ranking counts.
                scale = parameter.grad.square().mean().sqrt() + 1e-12
                parameter.grad *= self._logits.detach().std() / scale
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()


def first_guess(problem: Problem) -> Tensor:
    """Where to start: Grad-CAM, or a centred disc where that says nothing; ``(H, W)``."""
    stages = problem.reference.activations
    try:
        guess = gradcam_at(problem.classifier, problem.x, problem.label, stages)
        problem.passes.forward += 1
        problem.passes.backward += 1
    except ClassifierError:
        guess = centred_disc(problem.classifier, problem.x, problem.label)
    if float(guess.std()) == 0:
        guess = centred_disc(problem.classifier, problem.x, problem.label)
    return (guess - guess.mean()) / guess.std()


def project(logits: Tensor, allowed: Tensor, area: float, width: float) -> Tensor:
    """Probabilities that exceed 0.5 on just the share ``area`` of pixels with the highest logits.

    Args:
        logits: ``(H, W)``.
        allowed: Boolean ``(H, W)``; elsewhere the probability is 0.
        area: Share of all pixels, in ``(0, 1]``.
        width: Softness of the edge, in standard deviations of the logits.
    """
    ranked, order = logits.detach()[allowed].sort(descending=True, stable=True)
    count = min(max(1, round(area * logits.numel())), len(ranked))
    edge = (ranked[count - 1] + ranked[min(count, len(ranked) - 1)]) / 2
    spread = ranked.std(correction=0) + 1e-12
    probability = torch.sigmoid((logits - edge) / (width * spread))
    # Pixels of equal logits may lie on both sides of the edge.
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept[order[:count]] = True
    inside = torch.zeros_like(allowed).masked_scatter(allowed, kept)
    split = torch.where(inside, probability.clamp(min=0.5 + 1e-6), probability.clamp(max=0.5))
    return split * allowed


def _optimizers(generator: nn.Module, recipe: ConstrainedRecipe) -> list[torch.optim.Optimizer]:
    shared = [p for name, p in generator.named_parameters() if name != "residual"]
    residual = [p for name, p in generator.named_parameters() if name == "residual"]
    optimizers: list[torch.optim.Optimizer] = []
    if shared:
        optimizers.append(torch.optim.Adam(shared, lr=recipe.shared_rate))
    if residual:
        optimizers.append(
            torch.optim.SGD(residual, lr=recipe.residual_rate, momentum=recipe.momentum)
        )
    return optimizers
