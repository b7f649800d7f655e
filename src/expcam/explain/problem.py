"""One image, one class, one classifier: what every solver needs to know of them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from expcam.classifier.contrast import LEADING
from expcam.classifier.model import Classifier
from expcam.classifier.taps import stage_outputs, tapped
from expcam.errors import ClassifierError, TargetError
from expcam.explain.terms import Reference
from expcam.search.gradients import SmoothedGradients

FORWARD = 1 / 3
"""A forward pass alone, in units of a forward and a backward pass."""


@dataclass
class Passes:
    """Passes of the classifier on one image, counted one by one."""

    forward: int = 0
    backward: int = 0

    @property
    def cost(self) -> float:
        """In units of a forward and a backward pass; a forward pass alone counts a third."""
        return self.forward * FORWARD + self.backward * (1 - FORWARD)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A mask to be found.

    Attributes:
        classifier: Frozen by the caller; with a contrast it chooses between two classes only.
        target: Index of the class to be explained, among all classes.
        contrast: Index of the class that it is compared to; None for all.
        x: Normalised image ``(3, H, W)``.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep.
        reference: What the classifier makes of the whole image.
        passes: What was spent on this image so far.
    """

    classifier: Classifier
    target: int
    contrast: int | None
    x: Tensor
    allowed: Tensor
    reference: Reference
    passes: Passes = field(default_factory=Passes)

    @property
    def predicted(self) -> bool:
        """Whether the classifier gives the whole image the class to be explained."""
        return int(self.reference.logits.argmax()) == self.label

    @property
    def label(self) -> int:
        """Index of the class to be explained, among the classifier's logits."""
        return self.reference.label


def pose(
    classifier: Classifier,
    x: Tensor,
    target: int | str | None,
    contrast: int | str | None = None,
    allowed: Tensor | None = None,
) -> Problem:
    """Run a frozen classifier once on the whole image and say what is to be found.

    Args:
        classifier: The classifier to explain; inside `frozen`.
        x: Normalised image ``(3, H, W)``.
        target: Class to explain, by index or label; None for the predicted one.
        contrast: The only other class to choose from, if not all.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep. None for all.

    Raises:
        ClassifierError: The classifier gives no finite logits, or no gradient.
        TargetError: No such class, or a class compared to itself.
    """
    logits, activations = stage_outputs(classifier, x.clone().requires_grad_())
    if not logits.requires_grad:
        raise ClassifierError(
            f"classifier `{classifier.name}` passes no gradient to its input, "
            "so no mask can be trained on it"
        )
    logits = logits.detach()
    label = int(logits.argmax()) if target is None else classifier.class_index(target, len(logits))
    against = None if contrast is None else classifier.class_index(contrast, len(logits))
    if against == label:
        raise TargetError(f"class `{classifier.label_name(label)}` cannot be compared to itself")
    if against is not None:
        lead = logits[label] - logits[against]
        logits = torch.stack([torch.zeros_like(lead), lead])
    return Problem(
        classifier=classifier if against is None else classifier.between(label, against),
        target=label,
        contrast=against,
        x=x,
        allowed=torch.ones_like(x[0], dtype=torch.bool) if allowed is None else allowed,
        reference=Reference(
            logits=logits,
            activations={name: each.detach() for name, each in activations.items()},
            label=label if against is None else LEADING,
        ),
        passes=Passes(forward=1),
    )


@dataclass(frozen=True)
class Response:
    """What the classifier made of one problem's composites.

    Attributes:
        logits: ``(n, classes)``.
        activations: Output of each tap, ``(n, …)``; empty where none was asked for.
    """

    logits: Tensor
    activations: dict[str, Tensor]


def respond(
    problems: Sequence[Problem],
    composites: Sequence[Tensor],
    *,
    taps: bool,
    smoothed: bool = False,
    fast: nn.Module | None = None,
) -> list[Response]:
    """Run the composites of several problems of one classifier as one batch, with gradient.

    A forward and a backward pass is counted for each composite.

    Args:
        problems: Of the same classifier and image size.
        composites: For each problem, ``(n, 3, H, W)``.
        taps: Whether the activations are wanted.
        smoothed: Whether the gradient is that of `SmoothedGradients`.
        fast: Runs in place of the classifier's module, which it contains.
    """
    classifier, counts = problems[0].classifier, [len(each) for each in composites]
    names = list(problems[0].reference.activations) if taps else []
    gradients = SmoothedGradients() if smoothed else nullcontext()
    with tapped(classifier.module, names) as outputs, gradients:
        logits = classifier.with_module(fast or classifier.module).all_logits(
            torch.cat(list(composites))
        )
    activations = {name: output.split(counts) for name, output in outputs.items()}
    for problem, count in zip(problems, counts, strict=True):
        problem.passes.forward += count
        problem.passes.backward += count
    return [
        Response(
            problem.classifier.chosen(rows),
            {name: parts[place] for name, parts in activations.items()},
        )
        for place, (problem, rows) in enumerate(zip(problems, logits.split(counts), strict=True))
    ]
