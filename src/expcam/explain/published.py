"""The published recipe: fixed weights, trained from scratch, the last mask returned.

Suhail, Anand, Sethi (arXiv 2509.23051 and 2509.25686). Two of its five forward passes a step
repeat another one: the image itself never changes, and the zero background of the abductive
constraint is the explanation. They are not run twice here; the numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from expcam.classifier.taps import with_outputs
from expcam.explain import backgrounds as bg
from expcam.explain.decision import Decision
from expcam.explain.generators import seeded
from expcam.explain.losses import Observation, Reference, weighted
from expcam.explain.objectives import PUBLISHED
from expcam.progress import Progress
from expcam.search.engine import Found
from expcam.search.projection import straight_through


@dataclass(frozen=True, kw_only=True)
class PublishedRecipe:
    """Settings of `solve_published`, as in the authors' runs on ResNet-18.

    Attributes:
        generator: A key of `GENERATORS`.
        weights: λ of each term of the loss.
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
    decision: Decision, allowed: Tensor, recipe: PublishedRecipe, seed: int, progress: Progress
) -> Found:
    """Minimise the fixed loss and return the last mask, whatever it keeps.

    Args:
        decision: What is explained; its classifier is frozen.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep.
        recipe: Settings.
        seed: Of the generator's first weights and of the backgrounds.
        progress: Called after each step.
    """
    x, classifier = decision.x, decision.classifier
    rng = bg.training_rng(seed)
    generator = seeded(recipe.generator, x, seed)
    optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.rate)
    whole = decision.whole
    reference = Reference(logits=whole.logits, activations=whole.activations, label=decision.label)
    for step in range(recipe.steps):
        probability = torch.sigmoid(generator(x)) * allowed
        backgrounds = bg.draw(recipe.backgrounds, x, rng)
        masks = straight_through(probability).expand(len(backgrounds), 1, -1, -1)
        composites = masks * x + (1 - masks) * backgrounds
        logits, outputs = with_outputs(
            classifier.network,
            list(whole.activations),
            partial(classifier.logits, composites),
            len(composites),
        )
        seen = Observation(
            probability=probability, logits=logits, activations=outputs, reference=reference
        )
        optimizer.zero_grad()
        weighted(seen, dict(recipe.weights)).backward()
        optimizer.step()
        progress("mask", step + 1, recipe.steps)
    with torch.no_grad():
        probability = torch.sigmoid(generator(x)) * allowed
    return Found(
        keep=probability > 0.5,
        scores=probability,
        size=0,
        passes=float(recipe.steps * len(recipe.backgrounds)),
    )
