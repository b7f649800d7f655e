"""One image, one class, one classifier: what every solver needs to know of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from expcam.classifier.frozen import frozen
from expcam.classifier.model import Classifier
from expcam.errors import ClassifierError
from expcam.explain.objective import Observation, Reference
from expcam.explain.taps import stage_outputs, tapped


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A mask to be found.

    Attributes:
        classifier: Frozen while the problem is open.
        x: Normalised image ``(3, H, W)``.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep.
        reference: What the classifier makes of the whole image.
    """

    classifier: Classifier
    x: Tensor
    allowed: Tensor
    reference: Reference

    @property
    def label(self) -> int:
        """The class to be explained."""
        return self.reference.label

    def observe(self, probability: Tensor, masks: Tensor, backgrounds: Tensor) -> Observation:
        """Run the classifier on composites, with gradient to the masks.

        Args:
            probability: Mask probabilities ``(H, W)``.
            masks: One mask per background, ``(k, 1, H, W)``.
            backgrounds: ``(k, 3, H, W)``, the first one zero.
        """
        composites = masks * self.x + (1 - masks) * backgrounds
        with tapped(self.classifier.module, list(self.reference.activations)) as activations:
            logits = self.classifier.logits(composites)
        return Observation(
            probability=probability,
            logits=logits,
            activations=activations,
            reference=self.reference,
        )


@contextmanager
def open_problem(
    classifier: Classifier, x: Tensor, target: int | str | None, allowed: Tensor | None = None
) -> Iterator[Problem]:
    """Freeze the classifier, run it on the whole image once, and put everything back at the end.

    Args:
        classifier: The classifier to explain.
        x: Normalised image ``(3, H, W)``.
        target: Class to explain, by index or label; None for the predicted one.
        allowed: Boolean ``(H, W)``; pixels that the mask may keep. None for all.

    Raises:
        ClassifierError: The classifier gives no finite logits, or no gradient.
        TargetError: No such class.
    """
    with frozen(classifier.module) as module:
        names = stage_outputs(module, x)
        with torch.enable_grad(), tapped(module, names) as activations:
            logits = classifier.logits(x[None].clone().requires_grad_())[0]
        if not logits.requires_grad:
            raise ClassifierError(
                f"classifier `{classifier.name}` passes no gradient to its input, "
                "so no mask can be trained on it"
            )
        logits = logits.detach()
        whole = {name: activation.detach() for name, activation in activations.items()}
        label = (
            int(logits.argmax()) if target is None else classifier.class_index(target, len(logits))
        )
        yield Problem(
            classifier=classifier,
            x=x,
            allowed=torch.ones_like(x[0], dtype=torch.bool) if allowed is None else allowed,
            reference=Reference(logits=logits, activations=whole, label=label),
        )


def straight_through(probability: Tensor, hard: Tensor) -> Tensor:
    """The values of ``hard``, the gradient of ``probability``."""
    return hard + probability - probability.detach()
