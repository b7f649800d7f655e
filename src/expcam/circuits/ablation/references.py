"""What stands in the place of ablated channels: their activations on a reference.

A circuit is relative to its reference as a mask is to its background. The kinds differ in how much
of the image's own statistics they keep, and a circuit that holds against one may fail against
another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.circuits.ablation.gates import Gates, Reference, average
from expcam.circuits.ablation.inputs import Subject, shuffled
from expcam.errors import OptionError
from expcam.explain.backgrounds import BACKGROUNDS

Image = Callable[[Subject, torch.Generator], Tensor]
"""From what is explained an image ``(channels, H, W)`` whose activations are the reference."""

OWN: dict[str, Image] = {
    "rest": lambda subject, rng: shuffled(subject.without(rng), rng),
    "shuffled": lambda subject, rng: shuffled(subject.x, rng),
    "blur": lambda subject, rng: BACKGROUNDS["blur"](subject.x, rng),
    "noise": lambda subject, rng: BACKGROUNDS["normal"](subject.x, rng),
    "grey": lambda subject, rng: torch.zeros_like(subject.x),
}
"""References made of the image itself. ``rest``: its patches in another order, the mask's pixels
replaced by a background; ``shuffled``: all its patches in another order; ``blur``, ``noise`` (N(0,
1)) and ``grey`` (the mean colour). Of each, every channel's mean over positions."""
PHOTOS, RESAMPLE, ZERO = "photos", "resample", "zero"
"""The mean over positions and over a random half of the reference photographs; all activations on
one of them, position by position; and zero."""
KINDS = (*OWN, PHOTOS, RESAMPLE, ZERO)
CONSTANT = frozenset({"blur", "grey", ZERO})
"""Those that are the same at each draw."""


@dataclass(frozen=True)
class References:
    """Draws of references for one decision.

    Args:
        gates: The classifier.
        photos: Normalised reference photographs ``(n, channels, H, W)``; may be none.
        draws: How many are made of each random kind, before the first is used.
    """

    gates: Gates
    photos: Tensor
    draws: int = 6

    def pool(self, kind: str, subjects: Sequence[Subject], rng: torch.Generator) -> list[Reference]:
        """Some draws of a kind, of one image or of several in turn.

        Raises:
            OptionError: It needs photographs, and there are none or too few.
        """
        if kind not in KINDS:
            raise OptionError(f"unknown reference `{kind}`; there are: {', '.join(KINDS)}")
        if kind == ZERO:
            return [self.gates.nothing()]
        if kind in OWN:
            count = len(subjects) if kind in CONSTANT else max(self.draws, len(subjects))
            images = [OWN[kind](subjects[i % len(subjects)], rng) for i in range(count)]
            return self.gates.means(torch.stack(images))
        check_photos(kind, len(self.photos))
        if kind == RESAMPLE:
            order = torch.randperm(len(self.photos), generator=rng)[: self.draws]
            return self.gates.activations(self.photos[order])
        means = self.gates.means(self.photos)
        half = max(1, len(means) // 2)
        some = (torch.randperm(len(means), generator=rng)[:half] for _ in range(self.draws))
        return [average([means[i] for i in chosen.tolist()]) for chosen in some]


def check_photos(kind: str, count: int) -> None:
    """Raise `OptionError` when a kind of reference has too few photographs."""
    if kind == PHOTOS and not count:
        raise OptionError("the reference `photos` needs photographs, and none were given")
    if kind == RESAMPLE and count < 2:
        given = "one photograph was" if count else "none were"
        raise OptionError(
            f"the reference `resample` draws one of several photographs, and {given} given"
        )


def kinds_of(photos: Tensor) -> list[str]:
    """The kinds that a circuit is searched against: ``rest``, and ``photos`` if there are any."""
    return ["rest", PHOTOS] if len(photos) else ["rest"]
