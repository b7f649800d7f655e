"""Classifiers of which chosen channels are replaced."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from expcam.circuits.formats import Node
from expcam.circuits.program import Runner, capture
from expcam.circuits.recording import Recording, record
from expcam.circuits.wiring import wire
from expcam.classifier.frozen import frozen
from expcam.classifier.model import Classifier
from expcam.errors import OptionError


class Ablation:
    """Replaces channels of a layer's activation.

    Args:
        axis: The dimension of the channels.
        like: The activation on one image, its first dimension that of the batch, or of the
            windows of the batch.

    Attributes:
        keep: 1 for a channel that passes, 0 for one that is replaced: ``(channels,)``, or
            ``(batch, channels)`` for a choice per image.
        replacement: What stands in its place; like ``like``, or of one position.
        seen: The latest activation, before any replacement.
    """

    def __init__(self, axis: int, like: Tensor) -> None:
        self.axis = axis
        self.keep = torch.ones(like.shape[axis], device=like.device)
        self.replacement = torch.zeros_like(like)
        self.seen = like.detach()

    def __call__(self, activation: Tensor) -> Tensor:
        """Replace what is not kept."""
        self.seen = activation.detach()
        count = self.replacement.shape[self.axis]
        # Windows, or heads, of an image lie side by side in the batch.
        images = activation.shape[0] // self.replacement.shape[0]
        keep = self.keep.expand(images, -1) if self.keep.ndim == 1 else self.keep
        if self.axis == 0:
            keep = keep.reshape(-1, *[1] * (activation.ndim - 1))
        else:
            keep = keep.repeat_interleave(activation.shape[0] // images, 0)
            shape = [1] * activation.ndim
            shape[0], shape[self.axis] = len(keep), count
            keep = keep.view(shape)
        replacement = self.replacement.repeat(images, *[1] * (activation.ndim - 1))
        return activation * keep + replacement * (1 - keep)


class Ablated(nn.Module):
    """A module with ablations behind some of its layers; the weights are shared.

    Attributes:
        ablations: By the name of the layer.
    """

    def __init__(self, module: nn.Module, ablations: Mapping[str, Ablation]) -> None:
        super().__init__()
        self.module = module
        self.ablations = ablations

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images ``(batch, 3, H, W)``."""
        wiring = wire(capture(self.module, x))
        replaced = {
            wiring.sites[name].activation: ablation for name, ablation in self.ablations.items()
        }
        return Runner(wiring.program, replaced)(self.module, x)


def ablated(module: nn.Module, recording: Recording) -> Ablated:
    """A module with an ablation behind each layer that was recorded, but that of the classes."""
    return Ablated(
        module,
        {
            name: Ablation(layer.axis, recording.activations[name].detach())
            for name, layer in recording.layers.items()
            if name != recording.output_layer
        },
    )


@contextmanager
def ablate(
    classifier: Classifier, nodes: Sequence[Node], *, replacement: float = 0.0
) -> Iterator[Classifier]:
    """See what a classifier does without some of its channels.

    A channel is replaced where its layer's activation is complete: behind the batch norm and the
    nonlinearity that follow the layer, before any sum, concatenation or pooling. Of attention a
    channel is a head.

    Args:
        classifier: It is left as it was found.
        nodes: Channels, each ``(layer name, channel index)``, like the keys of a circuit's nodes.
        replacement: Their activation in the block.

    Yields:
        A classifier with the same weights, for use inside the block.

    Raises:
        OptionError: A layer or channel that does not exist.
        ClassifierError: The readout cannot follow the classifier.
    """
    # Only the shapes of this image matter.
    x = classifier.prepare(np.zeros((256, 256, 3), np.uint8)).input
    with frozen(classifier.module) as module:
        with torch.no_grad():
            copy = ablated(module, record(module, x[None]))
        for layer, channel in nodes:
            if layer not in copy.ablations:
                raise OptionError(
                    f"layer `{layer}` has no channels to ablate; there are: "
                    f"{', '.join(copy.ablations)}"
                )
            ablation = copy.ablations[layer]
            count = len(ablation.keep)
            if not 0 <= channel < count:
                raise OptionError(
                    f"layer `{layer}` has no channel {channel}: it has 0 to {count - 1}"
                )
            ablation.keep[channel] = 0
            ablation.replacement.select(ablation.axis, channel).fill_(replacement)
        yield classifier.with_module(copy)
