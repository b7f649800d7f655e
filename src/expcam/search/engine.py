"""The smallest set of parts for which a decision holds under perturbation.

A scorer gives each part a score, and the best-scored share of the parts is kept. In each step the
others are replaced by two perturbations, of noise or of what never varies, and the scorer learns
from the loss there. Half of the steps look at what is hardest at present, half at each kind in
turn. The edge between what is kept and what is not is soft at first and sharpens. In the first
half the share falls while the margin is more than enough, and rises, slowly, while it is not. In
the second half hard choices are cut and checked on perturbations fixed beforehand; the share then
follows their worst margin, and the steps look at what refuted them. Of the cuts that pass, the
smallest has been lucky, so that it must pass on fresh draws, too, or the next larger one is tried.
Cells that can be spared are dropped, and what is left is minimal at their size. Where a share is
asked for, the share falls to it on a schedule, and the best-scored parts are the answer.

Extremal perturbations (Fong, Patrick, Vedaldi, arXiv 1910.08485) are the nearest relative: they
learn a mask of a given area by ranking; here the area is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from expcam.progress import Progress
from expcam.search.checks import Check
from expcam.search.controller import Controller
from expcam.search.cuts import Cuts
from expcam.search.parts import Model, Parts, Perturbation, Scorer
from expcam.search.projection import project, rank, straight_through
from expcam.search.settings import Settings

FORWARD = 1 / 3
"""A forward pass alone, in units of a forward and a backward pass."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched for.

    Attributes:
        parts: What is chosen from.
        scorer: Scores them, and learns.
        steps: Kinds of perturbations that the steps look at, the hardest first.
        checks: Those that choose among cuts; a random one counts as often as it is named.
        fresh: Those that confirm the choice.
        share: What share of the parts is asked for; None for as few as can be.
        rng: Source of the draws.
    """

    parts: Parts
    scorer: Scorer
    steps: Sequence[str]
    checks: Sequence[str]
    fresh: Sequence[str]
    share: float | None
    rng: torch.Generator


@dataclass(frozen=True, kw_only=True)
class Found:
    """The end of a search.

    Attributes:
        keep: Boolean, the parts that are kept.
        scores: All parts' scores as probabilities; those kept exceed 0.5.
        size: Of the cells at which ``keep`` is minimal; 0 where it is not known to be.
        passes: What it took, in forward and backward passes.
    """

    keep: Tensor
    scores: Tensor
    size: int
    passes: float


def search(
    problems: Sequence[Problem], model: Model, settings: Settings, progress: Progress
) -> list[Found]:
    """Search for several choices at once: they share the model's batches and nothing else.

    Args:
        problems: They ask for the same kinds of perturbations.
        model: Runs the perturbed inputs of all.
        settings: The numbers of the search.
        progress: Called after each step, and after each choice that is checked and pruned.
    """
    searches = [_Search(problem, settings) for problem in problems]
    steps = searches[0].count
    for step in range(steps):
        views = [each.views(step) for each in searches]
        inputs = [each.perturbed(some) for each, some in zip(searches, views, strict=True)]
        losses = []
        for smoothed in (False, True):
            group = [i for i, some in enumerate(views) if some[0].random == smoothed]
            if not group:
                continue
            ran = [x for i in group for x in inputs[i]]
            outputs = iter(model.with_gradient(ran, smoothed=smoothed))
            for i in group:
                own = list(islice(outputs, len(inputs[i])))
                losses.append(searches[i].loss(own, views[i]))
        torch.stack(losses).sum().backward()
        for each in searches:
            each.advance(step + 1, model)
        progress("mask", step + 1, steps)
    found = []
    for each in searches:
        found.append(each.end(model))
        # Of the same total for any number of problems: they may be a part of more.
        progress("pruning", len(found) * steps // len(searches), steps)
    return found


class _Search:
    """The state of one problem."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self._problem, self._settings = problem, settings
        allowed = problem.parts.allowed
        self._controller = Controller(
            settings, smallest=1 / allowed.numel(), largest=float(allowed.float().mean())
        )
        self._fixed: dict[str, Perturbation] = {}
        self._progress = 0.0
        self._mean: Tensor | None = None
        self._keep: Tensor = torch.empty(0)
        self._seen = 0
        self._cuts: Cuts | None = None
        self._refuting: Perturbation | None = None
        alone = len(problem.steps) == 1 and not self._drawn(problem.steps[0]).random
        self.count = settings.views if alone else settings.views // 2

    def views(self, step: int) -> list[Perturbation]:
        """What a step looks at: in turn the hardest at present, and every kind.

        Noise stands beside noise and what never varies beside its like, because the gradients
        beside noise alone are smoothed.
        """
        kinds, parts = self._problem.steps, self._problem.parts
        if step % 2:
            first = self._drawn(kinds[step // 2 % len(kinds)])
        else:
            first = self._refuting or self._drawn(self._controller.hardest or kinds[0])
        if not first.random:
            others = (by for by in map(self._drawn, kinds) if not by.random and by != first)
            return [first, *sorted(others, key=self._controller.margin)[:1]]
        if first is self._refuting:
            return [first, self._drawn(first.kind)]
        # Most of what noise itself adds to the two gradients cancels.
        return [first, parts.opposite(first)]

    def _drawn(self, kind: str) -> Perturbation:
        if kind in self._fixed:
            return self._fixed[kind]
        drawn = self._problem.parts.perturbation(kind, self._problem.rng)
        if not drawn.random:
            self._fixed[kind] = drawn
        return drawn

    def perturbed(self, views: Sequence[Perturbation]) -> list[Any]:
        """The inputs of a step."""
        settings, parts = self._settings, self._problem.parts
        scores = self._problem.scorer()
        now = scores.detach()
        self._mean = now if self._mean is None else self._mean.lerp(now, 1 - settings.memory)
        edge = settings.first_edge * (settings.last_edge / settings.first_edge) ** self._progress
        self._keep = project(scores, parts.allowed, self._share, edge)
        self._seen += len(views)
        hard = straight_through(self._keep)
        # A scorer would learn to live off the soft edge beside what never varies.
        return [
            parts.perturbed(hard if self._late and not by.random else self._keep, by)
            for by in views
        ]

    @property
    def _late(self) -> bool:
        return self._progress >= self._settings.early

    @property
    def _share(self) -> float:
        asked, first = self._problem.share, self._controller.share
        if asked is None:
            return first
        start = max(asked, self._settings.first_share)
        return float(start * (asked / start) ** min(1.0, self._progress / self._settings.early))

    def loss(self, outputs: Sequence[Any], views: Sequence[Perturbation]) -> Tensor:
        """The mean loss of a step; its margins go to the controller."""
        parts = self._problem.parts
        with torch.no_grad():
            margins = parts.margins(outputs, views).tolist()
        for by, margin in zip(views, margins, strict=True):
            self._controller.see(by.kind, -margin if by.removal else margin)
        losses = [parts.loss(self._keep, one, by) for one, by in zip(outputs, views, strict=True)]
        return torch.stack(losses).mean()

    def advance(self, step: int, model: Model) -> None:
        """Learn, look at a hard choice now and then, and choose the next share."""
        self._problem.scorer.step(step / self.count)
        self._progress = step / self.count
        due = self._problem.share is None and step % self._settings.interval == 0
        if due and self._late:
            self._look(model)
        self._controller.advance(self._progress)

    def _look(self, model: Model) -> None:
        """Check a hard choice, and let share and steps follow what comes out."""
        assert self._mean is not None
        if self._cuts is None:
            drawn = [self._drawn(kind) for kind in self._problem.checks]
            self._cuts = Cuts(Check(self._problem.parts, model, drawn), self._settings)
        cuts = self._cuts
        cut = cuts.add(self._mean, self._controller.share)
        spare = cuts.spare(cut)
        self._controller.see_check(float(spare.min()))
        perturbations = cuts.check.perturbations
        self._refuting = perturbations[int(spare.argmin())] if float(spare.min()) < 0 else None
        for by, margin in zip(perturbations, cut.margins.tolist(), strict=True):
            self._controller.see(by.kind, margin)

    def end(self, model: Model) -> Found:
        """The smallest choice that passes on fresh draws as well, without what can be spared."""
        problem = self._problem
        assert self._mean is not None
        if problem.share is not None:
            scores = rank(self._mean, problem.parts.allowed, problem.share)
            return Found(keep=scores > 0.5, scores=scores, size=0, passes=float(self._seen))
        assert self._cuts is not None
        cuts, check = self._cuts, self._cuts.check
        fresh = [self._drawn(kind) for kind in problem.fresh]
        further = Check(problem.parts, model, [*check.perturbations, *fresh])
        best = cuts.confirmed(cuts.candidates(self._mean), further)
        pruned = cuts.pruned(best, further, self._settings.pruning * self._seen / FORWARD)
        return Found(
            keep=pruned.keep,
            scores=torch.where(pruned.keep, best.scores, best.scores.clamp(max=0.5)),
            size=pruned.size,
            passes=self._seen + (check.runs + further.runs) * FORWARD,
        )
