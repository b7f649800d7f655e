"""How the channels of a circuit are chosen: rankings, and searches.

A ranking gives every channel a score, and the shortest beginning of it that passes the trials is
the circuit. A search learns the scores; the fewer numbers it learns, the less freedom it has to
find a set that says the class whatever it is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.circuits.ablation.trials import CONTRAST, KEPT, TRIALS, Trial, Trials
from expcam.circuits.discovery.channels import Channels, GatedModel
from expcam.progress import Progress
from expcam.search.checks import Check
from expcam.search.engine import Problem, search
from expcam.search.parts import Perturbation
from expcam.search.settings import Settings

LEVELS, DRAWS = 4, 6
"""Gradients of the gates are taken at so many levels between all ablated and none, on so many
trials."""
FIRST, FACTOR = 0.02, 1.15
"""The least share of the channels that is tried, and from one that is tried to the next."""
LARGEST = 0.9
"""A larger set is no circuit but the classifier."""
CHECKS: Mapping[str, int] = {"kept": 3, "mixed": 2, "contrast": 3, "removal": 1}
"""How many trials of each kind, against each kind of reference, a set must pass; and, before it is
the answer, as many again."""
SETTINGS = Settings(
    first_share=0.7, first_margin=2.0, last_margin=3.0, first_edge=0.3, growth=0.02, demand=0.3
)
"""Of a search among channels. It starts where rankings pass, and comes down from there, with margin
to spare: channels that are left out too early are seldom taken back. Margins vary less from draw
to draw than those of pixels beside noise."""
RATE, LAST_RATE = 0.1, 0.1
"""How far scores of a spread of 1 move in a step, and by what that has fallen in the last."""


@dataclass(frozen=True, eq=False)
class Task:
    """A circuit that is looked for.

    Attributes:
        trials: What it must pass.
        kinds: The kinds of references.
        mixed: Whether gradients may be taken in bfloat16.
        rng: Source of the draws.
        progress: Called after each step.
    """

    trials: Trials
    kinds: Sequence[str]
    mixed: bool
    rng: torch.Generator
    progress: Progress


Scores = Callable[[Task], Tensor]
"""Scores of all channels ``(total,)``."""
Method = Callable[[Sequence[Task]], list[Tensor | None]]
"""The channels of each circuit, boolean ``(total,)``; None where none is small enough. Tasks of one
classifier may share their passes, and nothing else."""


def attribution(task: Task) -> Tensor:
    """(a − r) · gradient of the margin, integrated from all channels ablated to none."""
    return _integrated(task, KEPT, lambda logits, _: task.trials.asked.margins(logits))


def magnitude(task: Task) -> Tensor:
    """Its absolute value: what speaks against the class counts as much as what speaks for it."""
    return attribution(task).abs()


def divergence(task: Task) -> Tensor:
    """The same of −KL between the whole model's output and the circuit's.

    On perturbed and on contrast inputs: what is worth keeping is what the whole output needs. Asked
    for a class that the whole model does not say, its logit and the highest one are exchanged.
    """
    asked = task.trials.asked

    def close(logits: Tensor, trial: Trial) -> Tensor:
        whole = asked.whole(trial.x[None])
        if trial.what == KEPT:
            whole = _exchanged(whole, asked.label)
        shares = asked.shares(whole)
        return -torch.sum(shares.exp() * (shares - asked.shares(logits)), 1)

    return _integrated(task, KEPT, close) + _integrated(task, CONTRAST, close)


def ranked(scores: Scores) -> Method:
    """The shortest beginning of a ranking that passes."""

    def find(tasks: Sequence[Task]) -> list[Tensor | None]:
        return [shortest(task) for task in tasks]

    def shortest(task: Task) -> Tensor | None:
        ranking = scores(task).argsort(descending=True, stable=True)
        parts, model = _parts(task)
        check, further = (Check(parts, model, _drawn(task, parts)) for _ in range(2))
        needed, share = check.needed(0.0), FIRST
        while share < LARGEST:
            keep = torch.zeros_like(parts.allowed)
            keep[ranking[: max(1, round(share * len(ranking)))]] = True
            if check.holds(keep, needed) and further.holds(keep, needed):
                return keep
            share *= FACTOR
        return None

    return find


def searched(scores: Scores, *, budgets: bool) -> Method:
    """What the engine finds when it learns a score for each channel, or a budget for each layer.

    Args:
        scores: Where it starts; with budgets they rank the channels of each layer for good.
        budgets: Whether only one number for each layer is learned.
    """

    def find(tasks: Sequence[Task]) -> list[Tensor | None]:
        _, model = _parts(tasks[0])
        problems = [problem(task) for task in tasks]
        sets = (each.keep for each in search(problems, model, SETTINGS, tasks[0].progress))
        return [keep if float(keep.float().mean()) < LARGEST else None for keep in sets]

    def problem(task: Task) -> Problem:
        parts, _ = _parts(task)
        scorer = Scorer(_normal(scores(task), task, by_layer=budgets), task, budgets=budgets)
        checks = _checks(task)
        return Problem(
            parts=parts,
            scorer=scorer,
            steps=_kinds(task),
            checks=checks,
            fresh=checks,
            share=None,
            rng=task.rng,
        )

    return find


METHODS: dict[str, Method] = {
    "attribution": ranked(attribution),
    "magnitude": ranked(magnitude),
    "divergence": ranked(divergence),
    "budgets": searched(magnitude, budgets=True),
    "gates": searched(magnitude, budgets=False),
}
"""By name. ``attribution`` keeps what speaks for the class, ``magnitude`` what speaks for it or
against it, ``divergence`` what the whole output needs; ``budgets`` learns how many channels each
layer keeps, ``gates`` which, both from ``magnitude`` on."""
METHOD = "gates"


class Scorer:
    """Scores of channels that learn, one by one or layer by layer.

    Args:
        start: Their first scores ``(total,)``, of a spread of about 1.
        task: Whose channels they are.
        budgets: Whether each layer has one number that is added to the scores of its channels.
    """

    def __init__(self, start: Tensor, task: Task, *, budgets: bool) -> None:
        counts = list(task.trials.gates.counts.values())
        sizes = torch.tensor(counts if budgets else [1] * len(start), device=start.device)
        self._start, self._sizes = start, sizes
        self._learned = torch.zeros(len(sizes), device=start.device, requires_grad=True)
        # Whatever the size of a gradient, a score moves by about the rate.
        self._optimizer = torch.optim.Adam([self._learned], lr=RATE)

    def __call__(self) -> Tensor:
        """The present scores."""
        return self._start + self._learned.repeat_interleave(self._sizes)

    def step(self, progress: float) -> None:
        """Learn; the steps get smaller with the progress in ``[0, 1]``."""
        self._optimizer.param_groups[0]["lr"] = RATE * LAST_RATE**progress
        self._optimizer.step()
        self._optimizer.zero_grad()


def _integrated(task: Task, what: str, value: Callable[[Tensor, Trial], Tensor]) -> Tensor:
    """Mean gradient by the gates of a value of each row of logits, over levels and trials."""
    total = task.trials.gates.total
    score = torch.zeros(total, device=task.trials.perturbed[0].device)
    for place, trial in enumerate(task.trials.several(what, task.kinds, DRAWS, task.rng)):
        levels = (torch.arange(LEVELS, device=score.device) + 0.5) / LEVELS
        gates = levels[:, None].expand(-1, total).clone().requires_grad_()
        with torch.autocast(score.device.type, torch.bfloat16, enabled=task.mixed):
            logits = task.trials.logits(list(gates), [trial] * LEVELS).float()
        (gradient,) = torch.autograd.grad(value(logits, trial).sum(), gates)
        score += gradient.mean(0) / DRAWS
        task.progress(f"attribution ({what})", place + 1, DRAWS)
    return score


def _exchanged(logits: Tensor, label: int) -> Tensor:
    """Logits ``(1, classes)`` with that of a class and the highest one exchanged."""
    changed = logits.clone()
    highest = int(logits.argmax())
    changed[0, [label, highest]] = logits[0, [highest, label]]
    return changed


def _parts(task: Task) -> tuple[Channels, GatedModel]:
    return Channels(task.trials, task.rng), GatedModel(task.trials, task.mixed)


def _kinds(task: Task) -> list[str]:
    return [f"{what}/{kind}" for what in TRIALS for kind in task.kinds]


def _checks(task: Task) -> list[str]:
    """The kinds, each as often as it is checked."""
    return [f"{what}/{kind}" for what in TRIALS for kind in task.kinds for _ in range(CHECKS[what])]


def _drawn(task: Task, parts: Channels) -> list[Perturbation]:
    return [parts.perturbation(kind, task.rng) for kind in _checks(task)]


def _normal(scores: Tensor, task: Task, *, by_layer: bool) -> Tensor:
    """Scores of the same order, as normal quantiles: of all channels, or of each layer's."""
    if by_layer:
        parts = task.trials.gates.split(scores).values()
        return torch.cat([_quantiles(part) for part in parts])
    return _quantiles(scores)


def _quantiles(scores: Tensor) -> Tensor:
    ranks = scores.argsort(stable=True).argsort(stable=True)
    quantiles: Tensor = torch.special.ndtri((ranks + 0.5) / len(scores))
    return quantiles
