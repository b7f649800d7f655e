"""The default solver: the smallest area under which the label holds, steered by constraint.

A generator ranks the pixels; the mask is the best-ranked share ``area`` of them, so that no
weight has to be tuned to make it small. The area follows the lead of the label on the hardest
view, up where it is too little and down where it is more than enough. At first the label may
trail: while steps are large and the edge is soft, a mask of the right area trails by logits, which
it makes up as both are refined; and where too few pixels are left, the gradient tells which of
them matter most. How far it may trail falls to nothing on the way. With noise among the views the
area grows slowly: beyond the edge of a mask that is too small nothing ranks the pixels yet, and
steps that do help the label more than many pixels at once. The smallest hard mask that passed a
check on all backgrounds is remembered throughout. Towards the end its area stays, and steps make
it lead by more. What is returned of all that was found is decided in `expcam.explain.ending`.

On noise the lead varies from draw to draw. How much differs from mask to mask, and is measured
on the way: what is asked for there, in the steps and in the checks, is in standard deviations.

Each step looks at two views only, mostly at what was hardest when it was last seen: many cheap
steps rank the pixels better than few dear ones, but two views take a CPU little longer than one.
Steps are large at first and small at the end, their gradients are smoothed over neighbouring
cells, and what is cut into a mask is the running mean of the logits: a gradient on one draw of
noise is mostly noise itself. Beside noise the steps follow `SmoothedGradients`, of which two
draws have more in common. A draw on which a check failed is looked at in the steps that follow:
those that refute a mask are few, and chance would hardly show them.

Where a mask ends it is soft at first and hardens as the training goes on. Straight-through
gradients alone, taken at a hard mask, mislead: what a pixel far from the mask's edge would do
when it is switched on is not seen in a derivative taken where it is off. But what is learned
beside a fixed background with a wide soft edge alone need not hold without it, by several logits;
so that such backgrounds are later on seen with the hard mask. Where there is nothing else to look
at, a narrow edge from the start does better.

Pieces with next to nothing of a mask make it hard to read, and are little missed. Masks are cut
without them, and later steps see them so. Only where no mask is found that way do they stay.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from expcam.classifier.precision import InBfloat16, computes_in_bfloat16
from expcam.explain import backgrounds as bg
from expcam.explain.candidates import Candidate, Candidates
from expcam.explain.checks import Check, leads
from expcam.explain.ending import Rankings, ended
from expcam.explain.generators import fitted
from expcam.explain.guess import first_guess
from expcam.explain.memory import out_of_memory
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.problem import Problem, Response, respond
from expcam.explain.projection import project, straight_through
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.steering import COUNTEREXAMPLE, REMOVAL, Steering
from expcam.explain.task import Solution, Task
from expcam.explain.terms import Observation, objective
from expcam.explain.updates import Updates
from expcam.progress import Progress

MATCHING = {"act", "kl", "rob"}
"""Terms that compare with what the classifier makes of the whole image."""
REMEMBERED = 1.5
"""On its way down the area falls by this factor from one ranking that is remembered to the next."""


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
        progress: Called after each step, and when each mask is pruned.

    Returns:
        For each problem the smallest mask that passed the check, pruned; with an exact area, the
        best one of that area. Where no mask passed, what pruning leaves of all allowed pixels; if
        they do not pass either, one of `ending.RELAXED_AREAS` that did on most views, and on all
        that do not vary; and if there is none, all allowed pixels.
    """
    searches = [Search(problem, recipe, task) for problem in problems]
    taps = any(name == "act" for name, _ in recipe.weights)
    module = problems[0].classifier.module
    mixed = recipe.mixed_precision
    if mixed is None:
        mixed = computes_in_bfloat16(problems[0].x.device)
    fast = InBfloat16(module, folded=not taps) if mixed else None
    steps = searches[0].steps
    for step in range(steps):
        running = [search for search in searches if not search.finished]
        if not running:
            break
        losses = []
        for smoothed in (False, True):
            group = [search for search in running if search.smoothed == smoothed]
            if not group:
                continue
            composites = [search.propose() for search in group]
            asked = [search.problem for search in group]
            try:
                responses = respond(asked, composites, taps=taps, smoothed=smoothed, fast=fast)
            except RuntimeError as error:
                if fast is None or out_of_memory(error):
                    raise
                fast = None  # not every operation exists in bfloat16
                responses = respond(asked, composites, taps=taps, smoothed=smoothed)
            losses += [
                search.judge(response) for search, response in zip(group, responses, strict=True)
            ]
        torch.stack(losses).sum().backward()
        for search in running:
            search.learn(fast)
        progress("mask", step + 1, steps)
    progress("mask", steps, steps)
    solutions: list[Solution] = []
    for search in searches:
        # Of the same total for any number of problems: those of a chunk are a part of more.
        progress("pruning", len(solutions) * steps // len(searches), steps)
        solutions.append(search.solution())
    progress("pruning", steps, steps)
    return solutions


class Search:
    """The state of one problem in `solve_constrained`.

    A step is `propose`, `judge` and, after the backward pass, `learn`.

    Attributes:
        problem: What is to be solved.
        steps: How many there are to be, at most.
        finished: Whether no more are needed.
    """

    def __init__(self, problem: Problem, recipe: ConstrainedRecipe, task: Task) -> None:
        self.problem = problem
        self.finished = False
        self._recipe, self._budget = recipe, task.area
        asked = OBJECTIVES[task.objective]
        self._steering = Steering(asked, recipe, budget=task.area, allowed=problem.allowed)
        # Only such backgrounds are looked at: neither noise nor the image without the mask.
        fixed = not self._steering.random and not asked.removal
        self._softest, self._binary_from = recipe.softest[fixed], recipe.binary_from[fixed]
        self._rng = bg.training_rng(task.seed)
        speck = recipe.speck if task.area is None else 0.0
        self._masks = Candidates(problem.allowed, Check(problem, asked, self._rng), speck)
        self._guess = first_guess(problem)
        # Those that are not drawn anew each time; later on a draw that refuted a mask as well.
        self._backgrounds = {
            name: bg.BACKGROUNDS[name](problem.x, self._rng)
            for name in asked.training
            if name not in bg.RANDOM
        }
        self._generator = fitted(recipe.generator, problem.x, self._guess, task.seed)
        self.steps = self._steering.steps
        self._updates = Updates(self._generator, recipe, self.steps)
        self._step = self._paused_until = self._confronted_until = self._last_found = 0
        self._first_found: int | None = None
        self._nearest: Candidate | None = None
        self._larger: list[tuple[Tensor, float]] = []

    @property
    def smoothed(self) -> bool:
        """Whether the next step is along `SmoothedGradients`: where one of its views is random."""
        drawn = not {*bg.RANDOM, COUNTEREXAMPLE}.isdisjoint(self._steering.views)
        return self._recipe.smoothed_gradients and drawn

    def propose(self) -> Tensor:
        """The composites of the next step, ``(views, 3, H, W)``."""
        recipe, steering = self._recipe, self._steering
        logits: Tensor = self._generator(self.problem.x)
        self._logits = logits.detach()
        before = self._mean_logits if self._step else self._logits
        self._mean_logits: Tensor = before.lerp(self._logits, 1 - recipe.averaging)
        softness = self._softest * (recipe.hardest / self._softest) ** self._progress
        keep = project(logits, self.problem.allowed, steering.area, softness)
        if self._masks.speck and self._progress >= self._binary_from:
            keep = keep - keep.detach() * self._masks.specks(keep)
        self._kept = [self._as_seen(keep, view) for view in steering.views]
        drawn: dict[str, Tensor] = {}
        composites = [
            self._composite(keep, view, drawn)
            for keep, view in zip(self._kept, steering.views, strict=True)
        ]
        return torch.stack(composites)

    def _as_seen(self, keep: Tensor, view: str) -> Tensor:
        """What a step takes for the mask, ``(H, W)``, of which ``keep`` are the probabilities."""
        if view in bg.RANDOM or self._progress < self._binary_from:
            return keep
        # Noise differs from draw to draw; on what stays the same the steps would learn to live
        # off the soft edge, which no hard mask has.
        return straight_through(keep)

    def _composite(self, keep: Tensor, view: str, drawn: dict[str, Tensor]) -> Tensor:
        """What a view shows of the image, of which ``keep`` is kept, ``(3, H, W)``.

        Of two draws of one kind in a step the second is the first with its sign changed: most of
        what noise itself adds to their gradients cancels.

        Args:
            keep: Mask probabilities ``(H, W)``.
            view: What is looked at.
            drawn: Draws of this step, by view, whose counterpart has not been looked at.
        """
        x = self.problem.x
        if view == REMOVAL:
            return (1 - keep) * x
        if view in self._backgrounds:
            background = self._backgrounds[view]
        elif view in drawn:
            background = -drawn.pop(view)
        else:
            background = drawn[view] = bg.BACKGROUNDS[view](x, self._rng)
        return keep * x + (1 - keep) * background

    def judge(self, response: Response) -> Tensor:
        """The objective of this step, a mean over its views."""
        views = self._steering.views
        found = leads(response.logits.detach(), self.problem.label).tolist()
        removed = [view == REMOVAL for view in views]
        seen = [-lead if gone else lead for lead, gone in zip(found, removed, strict=True)]
        self._steering.see(seen, self._step)
        parts = []
        for i, (keep, gone) in enumerate(zip(self._kept, removed, strict=True)):
            logits = response.logits[i : i + 1]
            observed = Observation(
                probability=keep,
                logits=logits[:0] if gone else logits,
                removed=logits if gone else logits[:0],
                activations={name: each[i : i + 1] for name, each in response.activations.items()},
                reference=self.problem.reference,
            )
            weights = dict(self._recipe.removal_weights if gone else self._recipe.weights)
            if not self.problem.predicted:
                # What the classifier makes of the whole image is another class.
                weights = {name: each for name, each in weights.items() if name not in MATCHING}
            parts.append(objective(observed, weights))
        return torch.stack(parts).mean()

    def learn(self, fast: nn.Module | None = None) -> None:
        """Update the generator from its gradients, check the mask, choose the next area.

        Args:
            fast: What masks are checked with, in place of the classifier's module.
        """
        recipe, step = self._recipe, self._step
        self._masks.check.fast = fast
        self._updates.step(self._logits)
        checking = self._progress >= recipe.first_check
        interval = max(1, round(recipe.interval * self.steps))
        if self._steering.pinned:
            if (self.steps - step - 1) % interval == 0:
                self._refine()
        elif self._budget is None:
            smaller = self._steering.area < recipe.gain * self._masks.best.area
            if checking and smaller and step >= self._paused_until and self._steering.holds:
                self._consider()
            # While the edge is soft, a mask may hold that does not when it is cut.
            waited = step - max(self._last_found, self.steps // 2)
            self.finished = bool(self._masks.found) and waited >= recipe.patience * self.steps
        elif checking and step % interval == interval - 1:
            self._consider()
        larger = self._larger[-1][1] if self._larger else recipe.first_area
        if self._steering.area <= larger / REMEMBERED:
            self._larger.append((self._mean_logits, self._steering.area))
        self._step += 1
        if self._progress >= recipe.pinned_from and not self._steering.pinned:
            if not self._masks.found:
                self._masks.speck = 0.0  # of a texture there may be no mask in few pieces
            elif self._budget is None and self._steering.random:
                self._pin()
        self._steering.advance(
            self._step,
            refuted=step < self._paused_until,
            confronted=self._step < self._confronted_until,
        )

    def solution(self) -> Solution:
        """The best mask, pruned unless its area was given."""
        if self._budget is not None:
            best = self._masks.best
            return Solution(best.mask, best.ranks, cell=0)
        rankings = Rankings(
            guess=self._guess,
            last=self._mean_logits,
            area=self._steering.area,
            larger=self._larger,
            nearest=self._nearest,
        )
        return ended(
            self.problem,
            self._masks,
            rankings,
            self._recipe,
            demanded=self._demanded,
            spared=self._recipe.spared * self._steering.spread,
        )

    @property
    def _progress(self) -> float:
        """Share of the steps that were taken."""
        return self._step / self.steps

    @property
    def _demanded(self) -> float:
        """By how many logits the label must lead on the random views of a check.

        In the second half of the steps it becomes less until a mask is found. Masks of a given
        area are compared by their leads alone.
        """
        if self._budget is not None:
            return 0.0
        until = self._step if self._first_found is None else self._first_found
        left = min(1.0, 2 - 2 * until / self.steps)
        return left * self._recipe.demanded * self._steering.spread

    def _consider(self) -> None:
        """Check the present mask and remember it if it is the best."""
        exact = self._budget is not None
        above = -torch.inf if exact else 0.0
        candidate = self._masks.tried(
            self._mean_logits, self._steering.area, self._demanded, above=above
        )
        if candidate.margin > (self._masks.best.margin if exact else 0):
            self._masks.found.append(candidate)
            self._last_found = self._step
            if self._first_found is None:
                self._first_found = self._step
        elif not exact:
            self._paused_until = self._step + self._recipe.pause
            self._confront()
            if self._nearest is None or candidate.margin > self._nearest.margin:
                self._nearest = candidate

    def _pin(self) -> None:
        """From here on make the best mask lead by more, where its lead is a matter of luck.

        If it fails on views that had no part in choosing it, what follows is somewhat larger.
        """
        masks, best = self._masks, self._masks.best
        masks.widen()
        masks.found[-1] = masks.tried(best.ranks, best.area, 0.0, above=-torch.inf)
        holds = masks.best.margin > 0
        self._steering.pin(best.area * (1.0 if holds else self._recipe.enlarged))

    def _refine(self) -> None:
        """Take the present mask for the best one if it leads by more."""
        best = self._masks.best.margin
        candidate = self._masks.tried(self._mean_logits, self._steering.area, 0.0, above=best)
        if candidate.margin > best:
            self._masks.found.append(candidate)
        self._confront()

    def _confront(self) -> None:
        """In the next few steps look at the draw of noise on which the last check failed, if any.

        Else a single draw may go on refuting masks that do well on all others.
        """
        draw = self._masks.check.counterexample
        if draw is not None:
            self._backgrounds[COUNTEREXAMPLE] = draw
            self._confronted_until = self._step + 1 + self._recipe.confronted
