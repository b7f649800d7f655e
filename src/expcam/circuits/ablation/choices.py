"""Which parts of a classifier to keep: the best by a score, or as many at random."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RANDOM, CIRCUIT = "random", "circuit"

Keep = Mapping[str, Tensor]
"""By layer which parts are kept, boolean: ``(channels,)`` of nodes, ``(targets, inputs)`` of
edges."""
LogitsOf = Callable[[Sequence[Keep]], Tensor]
"""From sets of parts the logits with only these parts kept, ``(sets, classes)``."""


@dataclass(frozen=True)
class Choice:
    """Parts to keep, and how they were chosen.

    Attributes:
        method: The score's name, or ``RANDOM``, or ``CIRCUIT``.
        draw: The number of the draw, of random parts; else 0.
        size: The share of all parts that is kept.
        keep: Which these are.
    """

    method: str
    draw: int
    size: float
    keep: Keep

    @property
    def complement(self) -> dict[str, Tensor]:
        """The parts that are not kept."""
        return {name: ~keep for name, keep in self.keep.items()}


def choices(
    scores: Mapping[str, Mapping[str, Tensor]],
    sizes: Sequence[float],
    draws: int,
    rng: torch.Generator,
) -> Iterator[Choice]:
    """For each size the best parts by each score, and as many random ones.

    Args:
        scores: By method and layer.
        sizes: Shares of each layer's parts; at least one part is kept.
        draws: How many draws of random parts stand beside each size.
        rng: Draws them.
    """
    shapes = {name: score.shape for name, score in next(iter(scores.values())).items()}
    for size in sizes:
        wanted = {name: max(1, round(size * shape.numel())) for name, shape in shapes.items()}
        for method, by_layer in scores.items():
            keep = {}
            for name, score in by_layer.items():
                flat = torch.zeros(score.numel(), dtype=torch.bool)
                flat[score.flatten().cpu().topk(wanted[name]).indices] = True
                keep[name] = flat.view(score.shape)
            yield Choice(method, 0, size, keep)
        for draw in range(draws):
            yield Choice(RANDOM, draw, size, _random(shapes, wanted, rng))


def matched(chosen: Mapping[str, Tensor], draws: int, rng: torch.Generator) -> Iterator[Choice]:
    """A circuit's own parts, and as many random ones in each layer."""
    shapes = {name: keep.shape for name, keep in chosen.items()}
    wanted = {name: int(keep.sum()) for name, keep in chosen.items()}
    size = sum(wanted.values()) / sum(shape.numel() for shape in shapes.values())
    yield Choice(CIRCUIT, 0, size, chosen)
    for draw in range(draws):
        yield Choice(RANDOM, draw, size, _random(shapes, wanted, rng))


def _random(
    shapes: Mapping[str, torch.Size], wanted: Mapping[str, int], rng: torch.Generator
) -> dict[str, Tensor]:
    keep = {}
    for name, shape in shapes.items():
        flat = torch.zeros(shape.numel(), dtype=torch.bool)
        flat[torch.randperm(shape.numel(), generator=rng)[: wanted[name]]] = True
        keep[name] = flat.view(shape)
    return keep
