"""Channels as the parts that a search chooses from, and trials as their perturbations."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.circuits.ablation.gates import batch_on
from expcam.circuits.ablation.trials import LOST, Trial, Trials
from expcam.search.parts import Perturbation

Gated = tuple[Tensor, Trial]
"""A set of channels, and what it is tried on."""


class Channels:
    """The channels of a classifier, for one decision.

    Kinds of perturbations are written ``kept/rest``: the trial, and the kind of its reference.

    Args:
        trials: What they are tried on.
        rng: Draws the trial that stands beside another.
    """

    cell_sizes: Sequence[int] = ()

    def __init__(self, trials: Trials, rng: torch.Generator) -> None:
        self._trials, self._rng = trials, rng
        device = trials.perturbed[0].device
        self.allowed = torch.ones(trials.gates.total, dtype=torch.bool, device=device)

    def perturbation(self, kind: str, rng: torch.Generator) -> Perturbation:
        """A trial of a kind."""
        what, _, reference = kind.partition("/")
        trial = self._trials.draw(what, reference, rng)
        return Perturbation(kind, trial, random=True, removal=what in LOST)

    def opposite(self, drawn: Perturbation) -> Perturbation:
        """Another trial of the kind: inputs and references have no sign."""
        return self.perturbation(drawn.kind, self._rng)

    def perturbed(self, keep: Tensor, by: Perturbation) -> Gated:
        """The set and the trial."""
        return keep, by.value

    def loss(self, keep: Tensor, output: Tensor, by: Perturbation) -> Tensor:
        """Keep the decision, or lose it, of logits ``(classes,)``."""
        margin = self._trials.asked.margins(output[None])[0]
        return F.softplus(margin if by.removal else -margin)

    def margins(self, outputs: Sequence[Tensor], by: Sequence[Perturbation]) -> Tensor:
        """By how much logits ``(classes,)`` of each say the class, ``(n,)``."""
        return self._trials.asked.margins(torch.stack(list(outputs)))

    def cells(self, keep: Tensor, size: int) -> Tensor:
        """None: single channels are too many to be dropped one by one."""
        return keep.new_zeros(0, *keep.shape)


class GatedModel:
    """Runs sets of channels on trials; steps in bfloat16 where the device is faster with it.

    Args:
        trials: What runs them.
        mixed: Whether steps run in bfloat16.
    """

    def __init__(self, trials: Trials, mixed: bool) -> None:
        self._trials, self._mixed = trials, mixed

    def with_gradient(self, inputs: Sequence[Gated], *, smoothed: bool) -> Sequence[Tensor]:
        """Logits ``(classes,)`` of each, for a step."""
        device = inputs[0][0].device.type
        with torch.autocast(device, torch.bfloat16, enabled=self._mixed):
            return self._run(inputs).float().unbind()

    @torch.no_grad()
    def outputs(self, inputs: Sequence[Gated]) -> Sequence[Tensor]:
        """Logits ``(classes,)`` of each, for a check."""
        batch = batch_on(inputs[0][0].device)
        parts = (inputs[start : start + batch] for start in range(0, len(inputs), batch))
        return [row for part in parts for row in self._run(part)]

    def _run(self, inputs: Sequence[Gated]) -> Tensor:
        return self._trials.logits([keep for keep, _ in inputs], [trial for _, trial in inputs])
