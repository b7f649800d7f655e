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
        batch: That of the batch; of windows or heads, which lie side by side in it, too.
        like: What stands in place of a channel, on one image; or of one position.

    Attributes:
        keep: 1 for a channel that passes, 0 for one that is replaced: ``(channels,)``, or
            ``(batch, channels)`` for a choice per image.
        replacement: What stands in its place.
        watching: Whether the next activation is remembered, for `last`.
    """

    def __init__(self, axis: int, batch: int, like: Tensor) -> None:
        self.axis, self.batch = axis, batch
        self.keep = torch.ones(like.shape[axis], device=like.device)
        self.replacement = like
        self.watching = False
        self._seen: Tensor | None = None

    def last(self) -> Tensor:
        """The activation that was remembered, before any replacement; it is then forgotten."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        return seen

    def __call__(self, activation: Tensor) -> Tensor:
        """Replace what is not kept."""
        if self.watching:
            self._seen, self.watching = activation.detach(), False
        size = activation.shape[self.batch]
        images = size // self.replacement.shape[self.batch]
        keep = self.keep.expand(images, -1) if self.keep.ndim == 1 else self.keep
        shape = [1] * activation.ndim
        if self.axis == self.batch:
            shape[self.axis] = size
        else:
            keep = keep.repeat_interleave(size // len(keep), 0)
            if self.axis < self.batch:
                keep = keep.T
            shape[self.batch], shape[self.axis] = size, activation.shape[self.axis]
        keep = keep.reshape(shape)
        repeats = [1] * activation.ndim
        repeats[self.batch] = images
        return activation * keep + self.replacement.repeat(repeats) * (1 - keep)


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


def ablated(module: nn.Module, recording: Recording, *, one_position: bool = False) -> Ablated:
    """A module with an ablation behind each layer that was recorded, but that of the classes.

    With ``one_position`` a channel is replaced by the same number everywhere, and images may be
    of any size.
    """
    ablations = {}
    for name, layer in recording.layers.items():
        if name == recording.output_layer:
            continue
        shape = recording.wiring.sites[name].activation.meta["val"].shape
        batch = next((d for d, side in enumerate(shape) if not isinstance(side, int)), 0)
        sides = layer.shape
        if one_position:
            sides = torch.Size(s if d == layer.axis else 1 for d, s in enumerate(layer.shape))
        like = recording.image.new_zeros(sides)
        ablations[name] = Ablation(layer.axis, batch, like)
    return Ablated(module, ablations)


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
            copy = ablated(module, record(module, x[None]), one_position=True)
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
