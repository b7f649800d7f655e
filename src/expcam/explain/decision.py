"""The decision that is explained: one classifier, one image, one class."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from expcam.classifier.model import Classifier, Prepared
from expcam.errors import ClassifierError, ExpcamError, ExpcamWarning, TargetError
from expcam.explain.compare.attributions import gradcam
from expcam.explain.explanation import Explanation, ties
from expcam.explain.match import Whole
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.request import Request
from expcam.search.engine import FORWARD
from expcam.search.model import out_of_memory

LOOK = 1 + 5 * FORWARD
"""What a decision costs, in forward and backward passes: a forward pass, three that look at the
activations, and for Grad-CAM two and a backward pass. What it finds out once of a classifier (see
`Classifier.is_multi_label`) is not counted."""
TIED = 1 / 3
"""A class is nearly tied with another that has at least so much of its probability."""
TOGETHER = 0.75
"""Classes that are nearly tied have at least so much of the probability together."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a classifier made of a whole image, and the class that is asked about.

    Attributes:
        classifier: Frozen by the caller; it takes this decision only (see `Classifier.deciding`).
        image: The image.
        target: Index of the class to be explained, among all classes.
        group: Indices of the classes that count as one, with ``target``, the most probable of
            them; empty where the class is asked for alone.
        contrast: Index of the class that it is compared to; None for all.
        label: Index of the class to be explained, among the classifier's logits.
        tied: See `nearly_tied`.
        logits: Of the whole image, of all that there is to choose from, ``(classes,)``.
    """

    classifier: Classifier
    image: Prepared
    target: int
    group: tuple[int, ...]
    contrast: int | None
    label: int
    tied: Mapping[str, float]
    logits: Tensor

    @cached_property
    def whole(self) -> Whole:
        """What the classifier computes of the whole image, looked at once."""
        return Whole.of(self.classifier, self.x)

    @cached_property
    def cam(self) -> Tensor | None:
        """Grad-CAM of the class, ``(H, W)``; None where the classifier has no feature map."""
        try:
            return gradcam(self.classifier, self.x, self.label)
        except ClassifierError:
            return None

    @property
    def x(self) -> Tensor:
        """The normalised image ``(channels, H, W)``."""
        return self.image.input

    @property
    def name(self) -> str:
        """The name of the class, or of the group."""
        names = [self.classifier.label_name(each) for each in self.group or [self.target]]
        return " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)

    @property
    def predicted(self) -> bool:
        """Whether the classifier gives the whole image the class to be explained."""
        return int(self.logits.argmax()) == self.label

    @property
    def confidence(self) -> float:
        """The probability of that class on the whole image."""
        return float(self.logits.softmax(-1)[self.label])


def decide(classifier: Classifier, image: Prepared, request: Request) -> Decision:
    """Run a frozen classifier once on the whole image and find out what there is to explain.

    Raises:
        ClassifierError: The classifier cannot take the image, or gives no finite logits, or no
            gradient.
        TargetError: No such class, a class compared to itself, or nothing can be necessary for a
            class that the classifier does not say.
    """
    logits = _whole(classifier, image.input)
    multi_label = classifier.is_multi_label(image.input)
    named = request.target
    members = (
        (int(logits.argmax()),) if named is None else classifier.class_indices(named, len(logits))
    )
    target = max(members, key=lambda each: float(logits[each]))
    group = members if len(members) > 1 else ()
    if len(group) == len(logits):
        raise TargetError("a group of all classes is always said: leave some out")
    contrast = (
        None if request.contrast is None else classifier.class_index(request.contrast, len(logits))
    )
    if group and (contrast is not None or multi_label):
        other = "each class is a finding by itself" if multi_label else "a contrast is of two"
        raise TargetError(f"several classes cannot be explained together: {other}")
    if contrast == target:
        raise TargetError(f"class `{classifier.label_name(target)}` cannot be compared to itself")
    tied: dict[str, float] = {}
    if not group and contrast is None and not multi_label:
        tied = nearly_tied(classifier, logits, target)
    if tied:
        warnings.warn(
            f"{ties(tied)}; the mask of one of them alone may need most of the pixels",
            ExpcamWarning,
            stacklevel=2,
        )
    classifier, label = classifier.deciding(target, contrast, group, multi_label=multi_label)
    decision = Decision(
        classifier=classifier,
        image=image,
        target=target,
        group=group,
        contrast=contrast,
        label=label,
        tied=tied,
        logits=classifier.chosen(logits[None])[0],
    )
    if OBJECTIVES[request.objective].removal and not decision.predicted:
        raise TargetError(
            f"the classifier does not say `{decision.name}`, so "
            f"nothing is necessary for it (objective `{request.objective}`)"
        )
    return decision


def decision_of(classifier: Classifier, explanation: Explanation) -> tuple[Classifier, int]:
    """The classifier that takes an explanation's decision only, and the place of its class.

    See `Classifier.deciding`.
    """
    x = torch.from_numpy(explanation.input).to(classifier.device)
    return classifier.deciding(
        explanation.label,
        explanation.contrast,
        explanation.group,
        multi_label=classifier.is_multi_label(x),
    )


def nearly_tied(classifier: Classifier, logits: Tensor, target: int) -> dict[str, float]:
    """The classes that are nearly tied with the first one, it among them, and their probabilities.

    By label, or by index where a label has a comma or is not the only such.

    Empty where ``target`` is not the first, where no other has at least `TIED` of its probability,
    and where the classifier does not know: all of them have less than `TOGETHER`, or they are
    more than half of the classes.
    """
    shares = logits.softmax(-1)
    order = shares.argsort(descending=True).tolist()
    tied = [each for each in order if float(shares[each]) >= TIED * float(shares[target])]
    several = 1 < len(tied) <= len(shares) / 2
    if order[0] != target or not several or float(shares[tied].sum()) < TOGETHER:
        return {}
    labels = [classifier.label_name(each) for each in order]
    # What can be asked for: a label, but for one with a comma or one that is not the only such.
    asked = {
        each: label if "," not in label and labels.count(label) == 1 else str(each)
        for each, label in zip(order, labels, strict=True)
    }
    return {asked[each]: float(shares[each]) for each in tied}


def _whole(classifier: Classifier, x: Tensor) -> Tensor:
    """Logits ``(classes,)`` of an image; where they cannot be had, the error says why."""
    try:
        logits = classifier.all_logits(x[None].clone().requires_grad_())[0]
    except ExpcamError:
        raise
    except Exception as error:  # whatever a module raises
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ClassifierError(
            f"classifier `{classifier.name}` fails on an image of shape {tuple(x.shape)}: {reason}"
        ) from error
    if not logits.requires_grad:
        raise ClassifierError(
            f"classifier `{classifier.name}` passes no gradient to its input, "
            "so no mask can be trained on it"
        )
    return logits.detach()
