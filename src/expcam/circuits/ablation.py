"""Classifiers of which chosen channels are replaced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from expcam.circuits.recording import Recording, record
from expcam.classifier.frozen import frozen
from expcam.classifier.model import Classifier
from expcam.errors import OptionError

Node = tuple[str, int]
"""A channel: the name of its layer, and its index there."""


class Ablation(nn.Module):
    """Replaces channels of an activation ``(batch, channels, …)``.

    Attributes:
        keep: 1 for a channel that passes, 0 for one that is replaced: ``(channels,)``, or
            ``(batch, channels)`` for a choice per image.
        replacement: What stands in its place, ``(1 or batch, channels, …)``.
        seen: The latest activation, before any replacement.
    """

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.keep = torch.ones(like.shape[1], device=like.device)
        self.replacement = like.new_zeros(1, like.shape[1], *[1] * (like.ndim - 2))
        self.seen = like.detach()

    def forward(self, activation: Tensor) -> Tensor:
        """Replace what is not kept."""
        self.seen = activation.detach()
        keep = self.keep.reshape(-1, activation.shape[1], *[1] * (activation.ndim - 2))
        return activation * keep + self.replacement * (1 - keep)


def ablatable(recording: Recording) -> tuple[nn.Module, dict[str, Ablation]]:
    """Put an `Ablation` behind each layer's activation in a recording's traced module.

    Returns:
        That module, which shares the weights of the one that was recorded, and its ablations by
        layer; the layer of the classes has none.
    """
    traced = recording.traced
    ablations: dict[str, Ablation] = {}
    for place, (name, layer) in enumerate(recording.layers.items()):
        if name == recording.output_layer:
            continue
        ablations[name] = Ablation(layer.activation.detach())
        traced.add_submodule(f"expcam_ablation_{place}", ablations[name])
        with traced.graph.inserting_after(layer.node):
            inserted = traced.graph.call_module(f"expcam_ablation_{place}", (layer.node,))
        users = [user for user in layer.node.users if user is not inserted]
        for user in users:
            user.replace_input_with(layer.node, inserted)
    traced.recompile()
    return traced, ablations


@contextmanager
def ablate(
    classifier: Classifier, nodes: Sequence[Node], *, replacement: float = 0.0
) -> Iterator[Classifier]:
    """See what a classifier does without some of its channels.

    A channel is replaced where its layer's activation is complete: behind the batch norm and the
    nonlinearity that follow the layer, before any sum, concatenation or pooling.

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
        copy, ablations = ablatable(record(module, x[None]))
        for layer, channel in nodes:
            if layer not in ablations:
                raise OptionError(
                    f"layer `{layer}` has no channels to ablate; there are: {', '.join(ablations)}"
                )
            count = len(ablations[layer].keep)
            if not 0 <= channel < count:
                raise OptionError(
                    f"layer `{layer}` has no channel {channel}: it has 0 to {count - 1}"
                )
            ablations[layer].keep[channel] = 0
            ablations[layer].replacement[:, channel] = replacement
        yield classifier.with_module(copy)
