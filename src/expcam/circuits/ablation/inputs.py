"""The inputs that a circuit is tried on: perturbed ones that show the class, and ones that do not.

Only inputs on which the whole model does what is expected of it are used: it says the class of a
perturbed input, and does not of a contrast input.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.errors import CircuitError, OptionError
from expcam.explain.backgrounds import BACKGROUNDS
from expcam.explain.explanation import Explanation

PATCHES = 8
"""Patches on the shorter side of an image whose patches are put in another order."""
LEAST_CROP = 0.75
"""The least side of a crop, as a share of the image's."""
NOISE = 0.1
"""Standard deviation of the noise that is added to crops, in normalised units."""
TRIES = 4
"""So many candidates are drawn for each input that is wanted."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is explained of one image.

    Attributes:
        x: Normalised image ``(channels, H, W)``.
        mask: Boolean ``(H, W)``; None where the whole image is the subject.
    """

    x: Tensor
    mask: Tensor | None

    def perturbed(self, rng: torch.Generator) -> Tensor:
        """Of an explanation a composite on a random background; of an image a crop.

        The crop is flipped as often as not, and has a little noise.
        """
        if self.mask is None:
            return _crop(self.x, rng)
        return torch.where(self.mask, self.x, _background(self.x, rng))

    def without(self, rng: torch.Generator) -> Tensor:
        """The image with the mask's pixels replaced by a background; of no mask all of it is."""
        background = _background(self.x, rng)
        return background if self.mask is None else torch.where(self.mask, background, self.x)


def subject_of(classifier: Classifier, explanation: Explanation, *, whole_image: bool) -> Subject:
    """An explanation as what a circuit is tried on."""
    x = input_of(classifier, explanation)
    return Subject(x, None if whole_image else torch.from_numpy(explanation.mask).to(x.device))


def input_of(classifier: Classifier, explanation: Explanation) -> Tensor:
    """The normalised image of an explanation ``(channels, H, W)``."""
    return torch.from_numpy(explanation.input).to(classifier.device)


def check_sizes(what: str, images: Sequence[Tensor], size: torch.Size) -> None:
    """Raise `OptionError` where images ``(channels, H, W)`` are not of one size.

    Args:
        what: What an image of them is called.
        images: Normalised.
        size: That of the explained image.
    """
    for place, each in enumerate(images):
        if each.shape != size:
            raise OptionError(
                f"{what} {place} is {tuple(each.shape)}, the explained image {tuple(size)}: "
                "give images of one size"
            )


def photographs(
    classifier: Classifier, reference: Sequence[ImageSource | Tensor], x: Tensor
) -> Tensor:
    """Reference photographs ``(n, channels, H, W)``, of the size of an image ``x``; may be none.

    Raises:
        OptionError: They are of another size.
    """
    prepared = [classifier.prepare(each).input for each in reference]
    check_sizes("reference", prepared, x.shape)
    return torch.stack(prepared) if prepared else x.new_zeros(0, *x.shape)


Says = Callable[[Tensor], Tensor]
"""Whether the whole model says the class, of each of some inputs ``(n, channels, H, W)``."""


def perturbed_inputs(
    subjects: Sequence[Subject], says: Says, count: int, rng: torch.Generator
) -> list[Tensor]:
    """Perturbed inputs on which the whole model says the class.

    Args:
        subjects: Of one or several images of a class, taken in turn.
        says: The whole model.
        count: How many.
        rng: Draws them.

    Raises:
        CircuitError: The model says the class on less than half of those that are drawn.
    """
    drawn = [subjects[i % len(subjects)].perturbed(rng) for i in range(2 * count)]
    kept = _first(drawn, says, count)
    if len(kept) < count:
        what = "crops of the image" if subjects[0].mask is None else "composites of the mask"
        raise CircuitError(
            f"the whole model holds its label on {len(kept)} of {len(drawn)} {what} only: there "
            "is no decision whose circuit could be looked for"
        )
    return kept


def contrast_inputs(
    subjects: Sequence[Subject],
    others: Sequence[Tensor],
    says: Says,
    count: int,
    rng: torch.Generator,
) -> list[Tensor]:
    """Inputs on which the whole model does not say the class.

    In turn: other photographs; the image without the mask's pixels; its patches in another order.

    Args:
        subjects: As for `perturbed_inputs`.
        others: Normalised photographs.
        says: The whole model.
        count: How many.
        rng: Draws them.

    Raises:
        CircuitError: The model says the class on nearly all of them.
    """
    drawn = list(_without_evidence(subjects, others, TRIES * count, rng))
    kept = _first(drawn, lambda x: ~says(x), count)
    if len(kept) < count:
        raise CircuitError(
            f"the whole model says the class on {len(drawn) - len(kept)} of {len(drawn)} inputs "
            "without the evidence: give reference photographs of other classes"
        )
    return kept


def _first(drawn: Sequence[Tensor], holds: Says, count: int) -> list[Tensor]:
    """The first so many inputs for which something holds; the model is run on no more."""
    kept: list[Tensor] = []
    for start in range(0, len(drawn), count):
        some = drawn[start : start + count]
        held = holds(torch.stack(list(some))).tolist()
        kept += [x for x, each in zip(some, held, strict=True) if each]
        if len(kept) >= count:
            break
    return kept[:count]


def shuffled(x: Tensor, rng: torch.Generator) -> Tensor:
    """An image ``(channels, H, W)`` with its square patches in another order."""
    side = max(1, min(x.shape[-2:]) // PATCHES)
    rows, columns = (length // side for length in x.shape[-2:])
    whole = x[:, : rows * side, : columns * side]
    patches = F.unfold(whole[None], side, stride=side)[0]
    order = torch.randperm(patches.shape[1], generator=rng).to(x.device)
    mixed = F.fold(patches[None, :, order], whole.shape[-2:], side, stride=side)[0]
    result = x.clone()
    result[:, : rows * side, : columns * side] = mixed
    return result


def _without_evidence(
    subjects: Sequence[Subject], others: Sequence[Tensor], count: int, rng: torch.Generator
) -> Iterator[Tensor]:
    for i in range(count):
        subject = subjects[i % len(subjects)]
        if others and i % 2:
            yield others[int(torch.randint(len(others), (), generator=rng))]
        else:
            x = subject.without(rng)
            yield shuffled(x, rng) if i % 4 >= 2 or subject.mask is None else x


def _background(x: Tensor, rng: torch.Generator) -> Tensor:
    kinds = list(BACKGROUNDS.values())
    return kinds[int(torch.randint(len(kinds), (), generator=rng))](x, rng)


def _crop(x: Tensor, rng: torch.Generator) -> Tensor:
    share = LEAST_CROP + (1 - LEAST_CROP) * float(torch.rand((), generator=rng))
    height, width = (max(1, round(share * side)) for side in x.shape[-2:])
    top, left = (
        int(torch.randint(whole - side + 1, (), generator=rng))
        for whole, side in zip(x.shape[-2:], (height, width), strict=True)
    )
    crop = F.interpolate(
        x[None, :, top : top + height, left : left + width],
        x.shape[-2:],
        mode="bilinear",
        antialias=True,
    )[0]
    if float(torch.rand((), generator=rng)) < 0.5:
        crop = crop.flip(-1)
    return crop + NOISE * torch.randn(x.shape, generator=rng).to(x)
