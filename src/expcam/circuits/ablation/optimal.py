"""Optimal ablation: the constants that harm a circuit least.

Zero and the mean may say something that no input says. The constant of least loss (Li, Janson:
*Optimal ablation for interpretability*, arXiv 2409.09951) only takes information away: what a
circuit loses against it, it needs from the channels outside.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.circuits.ablation.gates import Reference, average
from expcam.circuits.ablation.trials import Trial, Trials

STEPS, RATE = 20, 0.1
"""Steps of Adam, and how far a constant moves in each, as a share of its layer's spread."""


def optimal_reference(trials: Trials, keep: Tensor, drawn: Sequence[Trial]) -> Reference:
    """One constant for each channel, learned so that a circuit alone says the class.

    Args:
        trials: What runs them.
        keep: The circuit, boolean ``(channels of all layers,)``.
        drawn: Trials of the kind ``kept``; their references are where it starts. Test on others.

    Returns:
        The constants; it takes a forward and a backward pass for each trial and step.
    """
    start = average([trial.reference for trial in drawn])
    spread = {name: value.std(correction=0) + 1e-6 for name, value in start.items()}
    moved = {name: torch.zeros_like(value, requires_grad=True) for name, value in start.items()}
    optimizer = torch.optim.Adam(moved.values(), lr=RATE)

    def constants() -> Reference:
        return {name: start[name] + spread[name] * moved[name] for name in start}

    with torch.enable_grad():
        for _ in range(STEPS):
            reference = constants()
            rows = [replace(trial, reference=reference) for trial in drawn]
            margins = trials.asked.margins(trials.logits([keep] * len(rows), rows))
            gradients = torch.autograd.grad(F.softplus(-margins).mean(), list(moved.values()))
            for value, gradient in zip(moved.values(), gradients, strict=True):
                value.grad = gradient
            optimizer.step()
    return {name: value.detach() for name, value in constants().items()}
