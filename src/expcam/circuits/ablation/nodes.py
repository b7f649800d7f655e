"""Classifiers with channels replaced: of one's own choosing, or to test a circuit's nodes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from expcam.circuits.ablation.choices import Keep, LogitsOf
from expcam.circuits.circuit import Circuit, check_known
from expcam.circuits.formats import Node
from expcam.circuits.scores import NODE_SCORES
from expcam.circuits.trace.freezing import weight_and_bias
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.program import (
    Call,
    Interpreter,
    Override,
    capture,
    in_dtype_of,
)
from expcam.circuits.trace.recording import Recording, measure, record
from expcam.circuits.trace.wiring import wire
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.model import BATCH, Classifier
from expcam.errors import OptionError

WEIGHT = "weight"
"""Method: the channels with the largest weights, whatever the image."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Replaces channels of a layer's activation.

    Attributes:
        axis: The dimension of the channels.
        batch: The dimension of the batch. Windows or heads may lie side by side in it, too.
        keep: 1 for a channel that stays, 0 for one that is replaced: ``(channels,)``, or
            ``(batch, channels)`` for a choice per image.
        reference: What stands in the place of a channel: the layer's activation on one image, or
            of a single position.
    """

    axis: int
    batch: int
    keep: Tensor
    reference: Tensor

    def __call__(self, activation: Tensor) -> Tensor:
        """The activation with what is not kept replaced."""
        size = activation.shape[self.batch]
        images = size // self.reference.shape[self.batch]
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
        return activation * keep + self.reference.repeat(repeats) * (1 - keep)


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
        override = {
            wiring.sites[name].activation: _replaced(ablation)
            for name, ablation in self.ablations.items()
        }
        return Interpreter(wiring.program, override=override)(self.module, x)


def _replaced(ablation: Ablation) -> Override:
    return lambda call: ablation(call.run())


def ablations_of(recording: Recording, *, one_position: bool = False) -> dict[str, Ablation]:
    """An ablation that keeps everything, for each layer of a run except that of the classes.

    Args:
        recording: The run.
        one_position: Whether a channel is replaced by the same number everywhere; images may
            then be of any size.
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
        ablations[name] = Ablation(
            axis=layer.axis,
            batch=batch,
            keep=recording.image.new_ones(layer.channels),
            reference=recording.image.new_zeros(sides),
        )
    return ablations


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
        ClassifierError: The readout cannot follow the classifier, or it is called inside
            ``torch.inference_mode()``.
    """
    require_autograd("ablate")
    # Only the shapes of this image matter.
    x = classifier.prepare(np.zeros((256, 256, 3), np.uint8)).input
    with frozen(classifier.network) as module:
        with torch.no_grad():
            ablations = ablations_of(record(module, x[None]), one_position=True)
        for layer, channel in nodes:
            if layer not in ablations:
                raise OptionError(
                    f"layer `{layer}` has no channels to ablate; there are: {', '.join(ablations)}"
                )
            ablation = ablations[layer]
            count = len(ablation.keep)
            if not 0 <= channel < count:
                raise OptionError(
                    f"layer `{layer}` has no channel {channel}: it has 0 to {count - 1}"
                )
            ablation.keep[channel] = 0
            ablation.reference.select(ablation.axis, channel).fill_(replacement)
        yield classifier.with_module(Ablated(module, ablations))


class Nodes:
    """The channels of a classifier on one image; one that is not kept is replaced.

    Args:
        classifier: Whose they are.
        module: Its module, frozen.
        x: Normalised image ``(3, H, W)``.
        label: The class whose logit the scores look at.

    Attributes:
        whole: Logits ``(classes,)`` with everything kept.
        counts: By layer how many channels it has.
    """

    def __init__(self, classifier: Classifier, module: nn.Module, x: Tensor, label: int) -> None:
        self._classifier, self._module, self._x, self._label = classifier, module, x, label
        with torch.no_grad():
            recording = record(module, x[None])
            self._wiring = recording.wiring
            self._ablations = ablations_of(recording)
            self.whole = self._logits(self._ablations, x[None])[0]
        self.counts = {name: len(each.keep) for name, each in self._ablations.items()}

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Scores of all channels, by method and layer, measured on a module."""
        measured = measure(module, self._x[None], self._label, lambda _, __: torch.arange(0))
        return {
            method: {name: score(measured.channels[name]).cpu() for name in self.counts}
            for method, score in NODE_SCORES.items()
        } | {WEIGHT: {name: weight_norms(measured.recording, name).cpu() for name in self.counts}}

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The channels of a circuit, boolean, by layer."""
        # Of a circuit of blocks the layers inside them are not looked at, so they stay whole.
        blocks = circuit.graph.graph["granularity"] == "blocks"
        kept = {
            name: torch.full((count,), blocks and name not in circuit.layers)
            for name, count in self.counts.items()
        }
        nodes = [key for key, data in circuit.graph.nodes(data=True) if data["kind"] == "channel"]
        check_known(nodes, self.counts)
        for layer, channel in nodes:
            kept[layer][channel] = True
        return kept

    @torch.no_grad()
    def against(self, references: Sequence[Tensor], *, averaged: bool) -> LogitsOf:
        """The test by one reference.

        Args:
            references: Images; with none of them the reference is zero.
            averaged: Whether a channel is replaced by its mean over positions too.
        """
        sums = {name: torch.zeros_like(each.reference) for name, each in self._ablations.items()}
        for x in references:
            for name, seen in self._activations(x).items():
                positions = [d for d in range(seen.ndim) if d != self._ablations[name].axis]
                mean = seen.mean(positions, keepdim=True).expand_as(seen) if averaged else seen
                sums[name] = sums[name] + mean / len(references)
        ablations = {
            name: replace(each, reference=sums[name]) for name, each in self._ablations.items()
        }

        @torch.no_grad()
        def logits_of(keeps: Sequence[Keep]) -> Tensor:
            # Many choices run as one batch.
            rows = []
            for start in range(0, len(keeps), BATCH):
                some = keeps[start : start + BATCH]
                chosen = {}
                for name, each in ablations.items():
                    keep = torch.stack([keep[name] for keep in some])
                    chosen[name] = replace(each, keep=keep.to(each.keep))
                rows.append(self._logits(chosen, self._x.expand(len(some), -1, -1, -1)))
            return torch.cat(rows)

        return logits_of

    def _logits(self, ablations: Mapping[str, Ablation], x: Tensor) -> Tensor:
        return self._classifier.with_module(Ablated(self._module, ablations)).logits(x)

    def _activations(self, x: Tensor) -> dict[str, Tensor]:
        """By layer its activation on an image."""
        names = {self._wiring.sites[name].activation: name for name in self._ablations}
        found: dict[str, Tensor] = {}

        def observe(call: Call, result: Tensor) -> None:
            if call.node in names:
                found[names[call.node]] = result

        module = self._module
        program = self._wiring.program
        Interpreter(program, observe=observe)(module, in_dtype_of(module, x[None]))
        return found


def weight_norms(recording: Recording, name: str) -> Tensor:
    """L1 norm of the weights that make each channel of a layer, its scale folded in.

    Zero where no weights do: attention's heads.
    """
    layer, site = recording.layers[name], recording.wiring.sites[name]
    if recording.wiring.steps[site.node].kind is Kind.ATTENTION:
        return torch.zeros_like(layer.scale)
    kept = recording.kept[site.node]
    convolution = operation(site.node) == "conv2d"
    weight = kept.args[1] if convolution else weight_and_bias(site.node, kept)[0]
    return weight.abs().flatten(1).sum(1) * layer.scale.abs()
