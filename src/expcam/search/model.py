"""How a search runs a classifier: in batches, in bfloat16 where that is faster."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expcam.classifier.model import BATCH, Classifier
from expcam.classifier.network import unwrapped
from expcam.classifier.precision import InBfloat16, computes_in_bfloat16
from expcam.classifier.taps import with_outputs
from expcam.search.gradients import SmoothedGradients

WORDS = ("can't allocate memory", "not enough memory", "out of memory")


@dataclass(frozen=True, eq=False)
class Seen:
    """What a classifier made of one input.

    Attributes:
        logits: Of all classes, ``(classes,)``.
        activations: Outputs ``(1, …)`` of the modules that were asked for, by name.
    """

    logits: Tensor
    activations: Mapping[str, Tensor]


class ClassifierModel:
    """Runs a frozen classifier on inputs ``(channels, H, W)``.

    Steps run in bfloat16 where the device computes in it; checks never do, because what they find
    is returned.

    Args:
        classifier: Frozen by the caller.
        taps: Names of modules whose outputs are wanted beside the logits.
        mixed: Whether steps run in bfloat16; None for yes where the device is faster with it.
    """

    def __init__(
        self, classifier: Classifier, taps: Sequence[str] = (), mixed: bool | None = None
    ) -> None:
        self._classifier, self._taps = classifier, taps
        if mixed is None:
            mixed = computes_in_bfloat16(classifier.device)
        self._module = unwrapped(classifier.module)
        self._fast: Classifier | None = None
        if mixed:
            fast = InBfloat16(self._module, folded=True)
            self._fast, self._fast_module = classifier.with_module(fast), fast.module

    def with_gradient(self, inputs: Sequence[Tensor], *, smoothed: bool) -> list[Seen]:
        """What it makes of each input, for a step."""
        with SmoothedGradients() if smoothed else nullcontext():
            if self._fast is not None:
                try:
                    return self._run(self._fast, self._fast_module, inputs)
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise
                    self._fast = None  # not every operation exists in bfloat16
            return self._run(self._classifier, self._module, inputs)

    @torch.no_grad()
    def outputs(self, inputs: Sequence[Tensor]) -> list[Seen]:
        """What it makes of each input, for a check."""
        parts = (inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH))
        return [seen for part in parts for seen in self._run(self._classifier, self._module, part)]

    def _run(
        self, classifier: Classifier, module: nn.Module, inputs: Sequence[Tensor]
    ) -> list[Seen]:
        batch = torch.stack(list(inputs))
        logits, outputs = with_outputs(
            module, self._taps, lambda: classifier.all_logits(batch), len(batch)
        )
        return [
            Seen(row, {name: output[i : i + 1] for name, output in outputs.items()})
            for i, row in enumerate(logits)
        ]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out: elsewhere than on CUDA only its text tells."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in WORDS)
