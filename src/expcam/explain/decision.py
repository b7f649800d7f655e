"""The decision that is explained: one classifier, one image, one class."""

from dataclasses import dataclass

from torch import Tensor

from expcam.classifier.model import Classifier, Prepared
from expcam.errors import ClassifierError, ExpcamError, TargetError
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.request import Request
from expcam.search.engine import FORWARD
from expcam.search.model import out_of_memory

LOOK = FORWARD
"""What `decide` costs, in forward and backward passes: a forward pass. What it finds out once of a
classifier (see `Classifier.is_multi_label`) is not counted."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a classifier made of a whole image, and the class that is asked about.

    Attributes:
        classifier: Frozen by the caller; it takes this decision only (see `Classifier.deciding`).
        image: The image.
        target: Index of the class to be explained, among all classes.
        contrast: Index of the class that it is compared to; None for all.
        label: Index of the class to be explained, among the classifier's logits.
        logits: Of the whole image, ``(classes,)``, or ``(2,)`` where there are only two things to
            choose from.
    """

    classifier: Classifier
    image: Prepared
    target: int
    contrast: int | None
    label: int
    logits: Tensor

    @property
    def x(self) -> Tensor:
        """The normalised image ``(channels, H, W)``."""
        return self.image.input

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
    target = int(logits.argmax()) if named is None else classifier.class_index(named, len(logits))
    contrast = (
        None if request.contrast is None else classifier.class_index(request.contrast, len(logits))
    )
    if contrast == target:
        raise TargetError(f"class `{classifier.label_name(target)}` cannot be compared to itself")
    classifier, label = classifier.deciding(target, contrast, multi_label=multi_label)
    logits = classifier.chosen(logits[None])[0]
    decision = Decision(
        classifier=classifier,
        image=image,
        target=target,
        contrast=contrast,
        label=label,
        logits=logits,
    )
    if OBJECTIVES[request.objective].removal and not decision.predicted:
        raise TargetError(
            f"the classifier does not say `{classifier.label_name(target)}`, so "
            f"nothing is necessary for it (objective `{request.objective}`)"
        )
    return decision


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
