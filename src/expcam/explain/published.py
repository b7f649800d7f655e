"""The published recipe: fixed weights, trained from scratch, the last mask returned.

Suhail, Anand, Sethi (arXiv 2509.23051 and 2509.25686). Two of its five forward passes a step
repeat another one: the image itself never changes, and the zero background of the abductive
constraint is the explanation. They are not run twice here; the numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expcam.explain import backgrounds as bg
from expcam.explain.generators import seeded
from expcam.explain.objectives import PUBLISHED
from expcam.explain.problem import Problem, respond
from expcam.explain.projection import straight_through
from expcam.explain.task import Solution
from expcam.explain.terms import Observation, objective
from expcam.progress import Progress


@dataclass(frozen=True, kw_only=True)
class PublishedRecipe:
    """Settings of `solve_published`, as in the authors' runs on ResNet-18.

    Attributes:
        generator: A key of `GENERATORS`.
        weights: λ of each term of the objective.
        backgrounds: Names of the backgrounds of each step, zero first.
        steps: Number of updates.
        rate: Learning rate (Adam).
    """

    generator: str = "unet"
    weights: tuple[tuple[str, float], ...] = (
        ("act", 10.0),
        ("ce", 15.0),
        ("kl", 5.0),
        ("area", 100.0),
        ("bin", 1.0),
        ("tv", 500.0),
        ("rob", 100.0),
    )
    backgrounds: Sequence[str] = PUBLISHED
    steps: int = 880
    rate: float = 5e-5


def solve_published(
    problem: Problem, recipe: PublishedRecipe, seed: int, progress: Progress
) -> Solution:
    """Minimise the fixed objective and return the last mask, whatever it keeps."""
    x = problem.x
    rng = bg.training_rng(seed)
    generator = seeded(recipe.generator, x, seed)
    optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.rate)
    for step in range(recipe.steps):
        probability = torch.sigmoid(generator(x)) * problem.allowed
        backgrounds = bg.draw(recipe.backgrounds, x, rng)
        masks = straight_through(probability).expand(len(backgrounds), 1, -1, -1)
        composites = masks * x + (1 - masks) * backgrounds
        (response,) = respond([problem], [composites], taps=True)
        seen = Observation(
            probability=probability,
            logits=response.logits,
            removed=response.logits[:0],
            activations=response.activations,
            reference=problem.reference,
        )
        optimizer.zero_grad()
        objective(seen, dict(recipe.weights)).backward()
        optimizer.step()
        progress("mask", step + 1, recipe.steps)
    with torch.no_grad():
        probability = torch.sigmoid(generator(x)) * problem.allowed
    return Solution(probability > 0.5, probability, cell=0)
