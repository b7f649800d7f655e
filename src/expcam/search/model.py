"""How a search runs a classifier: in batches, in bfloat16 where that is faster."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from expcam.classifier.model import BATCH, Classifier
from expcam.classifier.network import unwrapped
from expcam.classifier.precision import InBfloat16, computes_in_bfloat16
from expcam.search.gradients import SmoothedGradients

WORDS = ("can't allocate memory", "not enough memory", "out of memory")


class ClassifierModel:
    """Runs a frozen classifier on inputs ``(channels, H, W)``.

    Steps run in bfloat16 where the device computes in it; checks never do, because what they find
    is returned.

    Args:
        classifier: Frozen by the caller.
        mixed: Whether steps run in bfloat16; None for yes where the device is faster with it.
    """

    def __init__(self, classifier: Classifier, mixed: bool | None = None) -> None:
        self._classifier = classifier
        if mixed is None:
            mixed = computes_in_bfloat16(classifier.device)
        self._fast: Classifier | None = None
        if mixed:
            fast = InBfloat16(unwrapped(classifier.module), folded=True)
            self._fast = classifier.with_module(fast)

    def with_gradient(self, inputs: Sequence[Tensor], *, smoothed: bool) -> Tensor:
        """Logits ``(n, classes)`` of all classes, for a step."""
        batch = torch.stack(list(inputs))
        with SmoothedGradients() if smoothed else nullcontext():
            if self._fast is not None:
                try:
                    return self._fast.all_logits(batch)
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise
                    self._fast = None  # not every operation exists in bfloat16
            return self._classifier.all_logits(batch)

    @torch.no_grad()
    def logits(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits ``(n, classes)`` of all classes, for a check."""
        rows = [
            self._classifier.all_logits(torch.stack(list(inputs[start : start + BATCH])))
            for start in range(0, len(inputs), BATCH)
        ]
        return torch.cat(rows)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out: elsewhere than on CUDA only its text tells."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS)
