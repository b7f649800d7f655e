"""Whether a hard mask does what was asked, on backgrounds fixed beforehand."""

import math
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from expcam.classifier.model import BATCH
from expcam.explain import backgrounds as bg
from expcam.explain.objectives import Objective
from expcam.explain.problem import Problem

ROUNDING = 0.01
"""Logits by which the label must lead at least: classes may be tied."""
NEAR = 0.25
"""Logits by which rounding to bfloat16 changes hardly any lead."""
STAGES = (1, 2, 4)
"""A check looks at so many views before the next ones; most masks that fail do so at once."""


@dataclass(frozen=True)
class _View:
    """What stands beside the mask's pixels, or is left of the image without them.

    Attributes:
        background: ``(3, H, W)``.
        removed: Whether the mask's pixels are the ones replaced, and the label is to be lost.
        random: Whether the background is one draw of many.
        spared: No larger lead than this is demanded.
    """

    background: Tensor
    removed: bool
    random: bool
    spared: float = math.inf

    def needed(self, demanded: float) -> float:
        """By how many logits a mask must do what is asked."""
        return max(ROUNDING, min(demanded, self.spared)) if self.random else ROUNDING


class Check:
    """The property asked for, tried on hard masks: the hardest views first.

    A view is a background for the mask's pixels, on which they must keep the label, or the
    image without them, which must lose it.

    Args:
        problem: What the masks are for.
        objective: What is asked for.
        rng: Source of the backgrounds.

    Attributes:
        demanded: Logits by which the label must lead on random backgrounds.
        fast: Runs in place of the classifier's module, up to rounding, where it may.
        exact: Whether it may in `screen` alone, because what holds is what is returned.
        counterexample: The draw ``(3, H, W)`` on which, of what `margins` last tried, a mask failed
            by most; None where none failed or where that was on no draw.
    """

    def __init__(self, problem: Problem, objective: Objective, rng: torch.Generator) -> None:
        self.demanded: float = 0.0
        self.fast: nn.Module | None = None
        self.exact = False
        self.counterexample: Tensor | None = None
        self._problem, self._objective, self._rng = problem, objective, rng
        self._views = [self._beside(name) for name in objective.checks]
        if objective.removal:
            self._views.append(_View(torch.zeros_like(problem.x), removed=True, random=False))

    def margins(self, masks: Tensor, *, above: float = 0.0) -> Tensor:
        """By how many logits each mask does what was asked, on the view where it is worst.

        Args:
            masks: Boolean ``(n, H, W)``.
            above: What a mask must exceed on one view to be tried on the next ones; -inf to try
                it on all, whatever it does.

        Returns:
            ``(n,)``; a mask holds where it is above 0. The worst view of a mask that fails is
            the worst of those it was tried on.
        """
        worst = torch.full((len(masks),), torch.inf, device=masks.device)
        lowest, self.counterexample = 0.0, None
        alive = torch.arange(len(masks), device=masks.device)
        tried, stages = 0, list(STAGES) if above > -torch.inf else []
        while tried < len(self._views) and len(alive):
            size = stages.pop(0) if stages else len(self._views)
            margins = self._on(masks[alive], self._views[tried : tried + size], self._usual)
            worst[alive] = torch.minimum(worst[alive], margins.amin(1))
            hardest = tried + int(margins.amin(0).argmin())
            if float(margins.min()) <= lowest:
                lowest, view = float(margins.min()), self._views[hardest]
                self.counterexample = view.background if view.random else None
            alive = alive[worst[alive] > above]
            if len(alive) < len(masks):
                self._views.insert(0, self._views.pop(hardest))
            tried += size
        return worst

    def screen(self, masks: Tensor) -> Tensor:
        """The same on the view alone that is the hardest so far.

        What the fast module puts near 0 the classifier's own looks at once more, so that rounding
        decides nothing.
        """
        view = self._views[:1]
        margins = self._on(masks, view, self.fast)[:, 0]
        near = margins.abs() < NEAR
        if self.fast is not None and near.any():
            margins[near] = self._on(masks[near], view)[:, 0]
        return margins

    def widened(self) -> "Check":
        """One that confirms: its views are these, which chose a mask among many, and new ones."""
        wider = copy(self)
        wider._views = self._views + [self._beside(name) for name in self._objective.confirmation]
        return wider

    def sparing(self, mask: Tensor, demanded: float) -> "Check":
        """One that asks a smaller mask for no more than this one ``(H, W)`` does on each view.

        What leads by less than is demanded somewhere may get no worse there. The views with the
        least to spare come first.

        Args:
            mask: What is to be spared.
            demanded: Of the new check.
        """
        kept = copy(self)
        leads = self._leads(mask[None], self._views, self._usual)[0].tolist()
        kept.demanded = demanded
        views = [
            (lead, replace(view, spared=lead - ROUNDING))
            for view, lead in zip(self._views, leads, strict=True)
        ]
        views.sort(key=lambda pair: pair[0] - pair[1].needed(demanded))
        kept._views = [view for _, view in views]
        return kept

    def among(self, other: "Check") -> "Check":
        """One with those of this one's views that the other has as well."""
        fewer = copy(self)
        theirs = {id(view.background) for view in other._views}
        fewer._views = [view for view in self._views if id(view.background) in theirs]
        return fewer

    def fixed(self) -> "Check":
        """One with those of the views that are no draws of noise."""
        fewer = copy(self)
        fewer._views = [view for view in self._views if not view.random]
        return fewer

    @property
    def margin(self) -> float:
        """By how many logits the mask that is to be spared does what was asked, at its worst.

        See `sparing`; infinite where none is.
        """
        return min(view.spared for view in self._views)

    def _beside(self, name: str) -> _View:
        background = bg.BACKGROUNDS[name](self._problem.x, self._rng)
        return _View(background, removed=False, random=name in bg.RANDOM)

    @property
    def cost(self) -> float:
        """Passes that were spent on the image so far, checks and all else."""
        return self._problem.passes.cost

    def holds(self, mask: Tensor) -> bool:
        """Whether one mask ``(H, W)`` does what was asked, on all views."""
        return float(self.margins(mask[None])) > 0

    def share(self, mask: Tensor) -> float:
        """Share of views on which one mask ``(H, W)`` does what was asked."""
        return float((self._on(mask[None], self._views, self._usual) > 0).float().mean())

    @property
    def _usual(self) -> nn.Module | None:
        return None if self.exact else self.fast

    def _on(self, masks: Tensor, views: list[_View], fast: nn.Module | None = None) -> Tensor:
        """Margins ``(n, views)``."""
        needed = [view.needed(self.demanded) for view in views]
        return self._leads(masks, views, fast) - torch.tensor(needed, device=masks.device)

    @torch.inference_mode()
    def _leads(self, masks: Tensor, views: list[_View], fast: nn.Module | None) -> Tensor:
        """By how many logits masks do what is asked, ``(n, views)``."""
        problem = self._problem
        classifier = problem.classifier.with_module(fast or problem.classifier.module)
        rows = []
        for chunk in masks.split(max(1, BATCH // len(views))):
            composites = [
                torch.where(chunk[:, None] ^ view.removed, problem.x, view.background)
                for view in views
            ]
            lead = leads(classifier.logits(torch.cat(composites)), problem.label)
            rows.append(lead.view(len(views), len(chunk)).T)
        problem.passes.forward += len(masks) * len(views)
        lead = torch.cat(rows)
        return lead * torch.tensor(
            [-1.0 if view.removed else 1.0 for view in views], device=lead.device
        )


def leads(logits: Tensor, label: int) -> Tensor:
    """Logits by which a class leads the best other one: ``(n,)`` of ``(n, classes)``."""
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(-1)
