"""The default solver: the smallest area under which the label holds, steered by constraint.

A generator ranks the pixels; the mask is the best-ranked share ``area`` of them, so that no
weight has to be tuned to make it small. The area falls fast, whether the label still holds or
not: where too few pixels are left, the gradient tells which of them matter most, and far more so
than where the label holds easily. From there on the area follows the lead of the label on the
hardest view, up where it fails and down where it holds. The smallest hard mask that passed a
check on all backgrounds is remembered throughout, and in the end it is pruned.

Each step looks at one view only, mostly the one that was hardest when it was last seen: many
cheap steps rank the pixels better than few dear ones. Steps are large at first and small at the
end, their gradients are smoothed over neighbouring cells, and what is cut into a mask is the
running mean of the logits: a gradient on one draw of noise is mostly noise itself.

Where a mask ends it is soft at first and hardens as the training goes on. Straight-through
gradients alone, taken at a hard mask, mislead: what a pixel far from the mask's edge would do
when it is switched on is not seen in a derivative taken where it is off.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from torchvision.transforms.functional import gaussian_blur

from expcam.explain import backgrounds as bg
from expcam.explain.checks import Check, leads, needed
from expcam.explain.generators import fitted
from expcam.explain.guess import first_guess
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.problem import Problem, Response, respond
from expcam.explain.progress import Progress
from expcam.explain.projection import project
from expcam.explain.pruning import prune
from expcam.explain.terms import Observation, objective

MATCHING = {"act", "kl", "rob"}
"""Terms that compare with what the classifier makes of the whole image."""
REMOVAL = "removal"
"""Stands for the image without the mask's pixels where others are named by their background."""
LAST_FACTORS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 2.5, 3.5, 5.0, 8.0)
"""Factors on the area at the end, at which the rankings are cut once more, until one holds."""
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
        last_rate: Both rates at the last step, as a share of the first.
        momentum: Of the residual logits.
        smoothing: Standard deviation, as a share of the side, of the Gaussian by which the
            gradient of the residual logits is smoothed at first; it falls to half of that.
        averaging: Decay of the running mean of the logits, which is what masks are cut from.
        softest: Width of the mask's edge at the first step, in standard deviations of the logits.
        hardest: The same at the last step.
        first_area: Where the area starts.
        descent: Share of the steps in which it falls to what is typical of the objective.
        settling: Share of the steps after which the area follows the leads.
        response: Change of the logarithm of the area for each logit of the hardest view's lead.
        follows: By how many logits a lead counts at most, below and above 0.
        memory: Decay of the running mean of a random view's lead; half as much for the others.
        unseen: Steps after which a random view is looked at again, and another one, also where
            it is not the hardest.
        first_check: Share of the steps before which no mask is checked.
        gain: A mask is checked when its area is below this share of the best one's.
        pause: Steps without a check after one that failed; the area grows meanwhile.
        interval: Steps between checks where the area is given.
        acceptable: Share of views that a mask must pass to be better than all pixels.
        most_passes: Pruning goes no further beyond so many passes.
        mixed_precision: Whether training steps run in bfloat16; None for yes on a GPU. Checks
            never do.
    """

    generator: str = "autoencoder"
    weights: tuple[tuple[str, float], ...] = (("hold", 1.0), ("tv", 1.0))
    removal_weights: tuple[tuple[str, float], ...] = (("lose", 1.0), ("tv", 0.3))
    steps: int = 140
    patience: int = 60
    shared_rate: float = 1e-5
    residual_rate: float = 0.1
    last_rate: float = 0.1
    momentum: float = 0.7
    smoothing: float = 0.018
    averaging: float = 0.8
    softest: float = 0.3
    hardest: float = 0.05
    first_area: float = 0.2
    descent: float = 0.22
    settling: float = 0.36
    response: float = 0.03
    follows: tuple[float, float] = (1.5, 3.0)
    memory: float = 0.7
    unseen: tuple[int, int] = (3, 8)
    first_check: float = 0.43
    gain: float = 0.85
    pause: int = 3
    interval: int = 10
    acceptable: float = 0.75
    most_passes: float = 270
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


class _Lead:
    """By how many logits the mask does what is asked on one view, as the steps see it."""

    def __init__(self, needed: float, *, random: bool, recipe: ConstrainedRecipe) -> None:
        self._needed = needed
        self._memory = recipe.memory if random else recipe.memory / 2
        self._unseen = recipe.unseen[0] if random else recipe.unseen[1]
        self._seen = -math.inf
        self.last = self.mean = -math.inf

    def see(self, lead: float, step: int) -> None:
        """Take in the lead of a step."""
        self.last = lead - self._needed
        first = math.isinf(self._seen)
        self.mean = (
            self.last if first else self._memory * self.mean + (1 - self._memory) * self.last
        )
        self._seen = step

    def overdue(self, step: int) -> float:
        """Steps since the view should have been looked at again."""
        return step - self._seen - self._unseen


class Search:
    """The state of one problem in `solve_constrained`.

    A step is `propose`, `judge` and, after the backward pass, `learn`.
    """

    def __init__(self, problem: Problem, recipe: ConstrainedRecipe, task: Task) -> None:
        self.problem = problem
        self.finished = False
        self._recipe, self._budget = recipe, task.area
        asked = OBJECTIVES[task.objective]
        self._leads = {
            name: _Lead(needed(problem, name), random=name in bg.RANDOM, recipe=recipe)
            for name in (*asked.training, *([REMOVAL] if asked.removal else []))
        }
        self._rng = bg.training_rng(task.seed)
        self._check = Check(problem, asked, self._rng)
        self._generator = fitted(recipe.generator, problem.x, first_guess(problem), task.seed)
        self._optimizers = _optimizers(self._generator, recipe)
        decay = _between(1, recipe.last_rate, 1 / recipe.steps)
        self._schedules = [ExponentialLR(each, decay) for each in self._optimizers]
        self._largest = float(problem.allowed.float().mean())
        # Of a given area nothing is known yet; else all pixels are the mask to improve on.
        whole = -torch.inf if task.area else float(self._check.margins(problem.allowed[None]))
        self._best = _Candidate(self._largest, problem.allowed.float(), whole)
        self._step = self._paused_until = self._found_at = 0
        self._lowest = task.area or asked.typical_area
        self._area = min(max(recipe.first_area, self._lowest), self._largest)

    def propose(self) -> Tensor:
        """The composite of the next step, ``(1, 3, H, W)``."""
        x, recipe = self.problem.x, self._recipe
        logits: Tensor = self._generator(x)
        self._logits = logits.detach()
        before = self._mean_logits if self._step else self._logits
        self._mean_logits: Tensor = before.lerp(self._logits, 1 - recipe.averaging)
        width = _between(recipe.softest, recipe.hardest, self._progress)
        keep = self._probability = project(logits, self.problem.allowed, self._area, width)
        self._view = self._next_view()
        if self._view == REMOVAL:
            return ((1 - keep) * x)[None]
        return (keep * x + (1 - keep) * bg.BACKGROUNDS[self._view](x, self._rng))[None]

    def judge(self, response: Response) -> Tensor:
        """The objective of this step."""
        logits, removal = response.logits.float(), self._view == REMOVAL
        lead = float(leads(logits.detach(), self.problem.label))
        self._leads[self._view].see(-lead if removal else lead, self._step)
        weights = dict(self._recipe.removal_weights if removal else self._recipe.weights)
        if not self.problem.predicted:
            # What the classifier makes of the whole image is another class.
            weights = {name: each for name, each in weights.items() if name not in MATCHING}
        seen = Observation(
            probability=self._probability,
            logits=logits[:0] if removal else logits,
            removed=logits if removal else logits[:0],
            activations=response.activations,
            reference=self.problem.reference,
        )
        return objective(seen, weights)

    def learn(self) -> None:
        """Update the generator from its gradients, check the mask, choose the next area."""
        recipe, step = self._recipe, self._step
        self._update()
        lead = min(each.mean for each in self._leads.values())
        checking = self._progress >= recipe.first_check
        if self._budget is None:
            held = lead > 0 and min(each.last for each in self._leads.values()) > 0
            smaller = self._area < recipe.gain * self._best.area
            if checking and held and smaller and step >= self._paused_until:
                self._consider()
            # While the edge is soft, a mask may hold that does not when it is cut.
            waited = step - max(self._found_at, recipe.steps // 2)
            self.finished = waited >= recipe.patience
        elif checking and step % recipe.interval == recipe.interval - 1:
            self._consider()
        self._steer(lead)
        self._step += 1

    def solution(self) -> Solution:
        """The best mask, pruned unless its area was given."""
        if self._budget is not None:
            return Solution(self._best.ranks > 0.5, self._best.ranks, cell=0)
        self._cut_once_more()
        best = self._best
        if best.margin <= 0:
            best = self._relaxed()
            return Solution(best.ranks > 0.5, best.ranks, cell=0)
        pruned = prune(best.ranks > 0.5, self._check, self._recipe.most_passes)
        ranks = torch.where(pruned.mask, best.ranks, best.ranks.clamp(max=0.5))
        return Solution(pruned.mask, ranks, pruned.cell)

    @property
    def _progress(self) -> float:
        """Share of the steps that were taken."""
        return self._step / self._recipe.steps

    def _next_view(self) -> str:
        """The hardest view, unless another one was not looked at for too long."""
        overdue = {name: each.overdue(self._step) for name, each in self._leads.items()}
        longest = max(overdue, key=lambda name: overdue[name])
        if overdue[longest] >= 0:
            return longest
        return min(self._leads, key=lambda name: self._leads[name].mean)

    def _steer(self, lead: float) -> None:
        """Choose the next area: down at first, then along with the hardest view's lead."""
        recipe = self._recipe
        if self._budget is None and self._progress >= recipe.settling:
            if self._step < self._paused_until:
                lead = min(lead, -0.5)  # a check found what the steps do not see
            below, above = recipe.follows
            self._area *= math.exp(-recipe.response * min(max(lead, -below), above))
        else:
            done = min(1.0, (self._step + 1) / (recipe.descent * recipe.steps))
            self._area = _between(max(recipe.first_area, self._lowest), self._lowest, done)
        self._area = min(max(self._area, 1 / self._logits.numel()), self._largest)

    def _consider(self) -> None:
        """Check the present mask and remember it if it is the best."""
        exact = self._budget is not None
        candidate = self._tried(self._mean_logits, self._area, all_views=exact)
        if candidate.margin > (self._best.margin if exact else 0):
            self._best, self._found_at = candidate, self._step
        elif not exact:
            self._paused_until = self._step + self._recipe.pause

    def _tried(self, logits: Tensor, area: float, *, all_views: bool = False) -> _Candidate:
        # An edge as wide as the logits spread, so that the probabilities rank all pixels.
        ranks = project(logits, self.problem.allowed, area, 1.0)
        margin = self._check.margins((ranks > 0.5)[None], all_views=all_views)
        return _Candidate(min(area, self._largest), ranks, float(margin))

    def _cut_once_more(self) -> None:
        """Cut the last ranking and the best one at growing areas until one holds."""
        start = min(self._area, self._best.area)
        for logits in (self._mean_logits, self._best.ranks):
            for area in (factor * start for factor in LAST_FACTORS):
                if area >= self._best.area:
                    break
                candidate = self._tried(logits, area)
                if candidate.margin > 0:
                    self._best = candidate
                    break

    def _relaxed(self) -> _Candidate:
        """Of a few level sets of the last logits the smallest that holds on most views."""
        for area in (each for each in RELAXED_AREAS if each < self._largest):
            ranks = project(self._mean_logits, self.problem.allowed, area, 1.0)
            if self._check.share(ranks > 0.5) >= self._recipe.acceptable:
                return _Candidate(area, ranks, 0.0)
        return self._best

    def _update(self) -> None:
        recipe = self._recipe
        smoothing = recipe.smoothing * (1 - self._progress / 2)
        for name, parameter in self._generator.named_parameters():
            if name == "residual" and parameter.grad is not None:
                sigma = smoothing * parameter.shape[-1]
                reach = math.ceil(3 * sigma)
                parameter.grad = gaussian_blur(parameter.grad, 2 * reach + 1, sigma)
                # One scale for all cells: Adam would move those that do not matter as far as
                # those that do. In units of the spread, because only the ranking counts.
                scale = parameter.grad.square().mean().sqrt() + 1e-12
                parameter.grad *= self._logits.std() / scale
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in self._schedules:
            schedule.step()


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


def _between(first: float, last: float, share: float) -> float:
    """What lies between two values on the way from one to the other, in equal ratios."""
    return first * math.pow(last / first, share)
