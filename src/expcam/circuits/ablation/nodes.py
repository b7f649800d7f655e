"""Classifiers with channels replaced: of one's own choosing, or to test a circuit's nodes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from expcam.circuits.ablation.choices import Keep, LogitsOf
from expcam.circuits.ablation.gates import (
    EXACT,
    Gates,
    Reference,
    Slot,
    average,
    batch_on,
    run_traced,
    slots_of,
)
from expcam.circuits.circuit import Circuit, check_known
from expcam.circuits.formats import Node
from expcam.circuits.scores import NODE_SCORES
from expcam.circuits.trace.freezing import weight_and_bias
from expcam.circuits.trace.graph import operation
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.program import Branching, capture, in_dtype_of
from expcam.circuits.trace.recording import Recording, measure, record
from expcam.circuits.trace.wiring import wire
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.model import Classifier
from expcam.errors import OptionError, WiringError
from expcam.progress import Progress, silent

WEIGHT = "weight"
"""Method: the channels with the largest weights, whatever the image."""


class Ablated(nn.Module):
    """A module with channels of some layers replaced by a number each; the weights are shared.

    Attributes:
        slots: By layer where its channels lie.
        keep: By layer 1 for a channel that stays, 0 for one that is replaced, ``(1, channels)``.
        replacement: What stands in the place of all others.
    """

    def __init__(
        self, module: nn.Module, slots: Mapping[str, Slot], keep: Reference, replacement: float
    ) -> None:
        super().__init__()
        self.module = module
        self.slots, self.keep, self.replacement = slots, keep, replacement

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images ``(batch, channels, H, W)``."""

        def replaced(name: str, activation: Tensor) -> Tensor:
            slot = self.slots[name]
            instead = activation.new_full([1] * (len(slot.shape) + 1), self.replacement)
            return slot.replaced(activation, self.keep[name].to(activation), instead)

        wiring = wire(capture(self.module, x))
        return run_traced(wiring, self.module, self.keep, x, replaced)


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
            slots = slots_of(record(module, x[None]))
        keep: dict[str, Tensor] = {}
        for layer, channel in nodes:
            if layer not in slots:
                raise OptionError(
                    f"layer `{layer}` has no channels to ablate; there are: {', '.join(slots)}"
                )
            count = slots[layer].channels
            if not 0 <= channel < count:
                raise OptionError(
                    f"layer `{layer}` has no channel {channel}: it has 0 to {count - 1}"
                )
            keep.setdefault(layer, torch.ones(1, count))[0, channel] = 0
        yield classifier.with_module(Ablated(module, slots, keep, replacement))


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
        self._module, self._x, self._label = module, x, label
        with torch.no_grad():
            self._gates = Gates(module, x)
            self.whole = module(in_dtype_of(module, x[None]))[0].to(x.dtype)
        if self._gates.wiring != EXACT:
            raise WiringError(self._gates.wiring.removeprefix("modules: "))
        self.counts = self._gates.counts

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Scores of all channels, by method and layer, measured on a module."""
        measured = measure(module, self._x[None], self._label, lambda _, __: torch.arange(0))
        return {
            method: {name: score(measured.channels[name]).cpu() for name in self.counts}
            for method, score in NODE_SCORES.items()
        } | {WEIGHT: {name: weight_norms(measured.recording, name).cpu() for name in self.counts}}

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The channels of a circuit, boolean, by layer."""
        return chosen_channels(circuit, self.counts)

    def against(self, references: Sequence[Tensor], *, averaged: bool) -> LogitsOf:
        """The test by one reference.

        Args:
            references: Images; with none of them the reference is zero.
            averaged: Whether a channel is replaced by its mean over positions too.
        """
        gates, reference = self._gates, self._gates.nothing()
        if references:
            images = torch.stack(list(references))
            reference = average(gates.means(images) if averaged else gates.activations(images))

        @torch.no_grad()
        def logits_of(keeps: Sequence[Keep]) -> Tensor:
            # Many choices run as one batch.
            rows, batch = [], batch_on(self._x.device)
            for start in range(0, len(keeps), batch):
                some = torch.stack([gates.flat(keep) for keep in keeps[start : start + batch]])
                x = self._x.expand(len(some), -1, -1, -1)
                rows.append(gates.logits(x, some.to(x.device), reference))
            return torch.cat(rows)

        return logits_of

    @torch.no_grad()
    def without_each(self, nodes: Sequence[Node], progress: Progress = silent) -> Tensor:
        """Logits ``(nodes, classes)`` with one channel alone at zero.

        Args:
            nodes: At least one channel.
            progress: Called after each batch.

        Raises:
            OptionError: There is no such channel.
        """
        check_known(nodes, self.counts)
        by_layer: dict[str, list[int]] = {}
        for layer, channel in nodes:
            by_layer.setdefault(layer, []).append(channel)
        most = max(map(len, by_layer.values()), default=1)
        batch = min(batch_on(self._x.device), most)
        groups = [
            (layer, channels[start : start + batch])
            for layer, channels in by_layer.items()
            for start in range(0, len(channels), batch)
        ]
        x = in_dtype_of(self._module, self._x).expand(batch, *self._x.shape)
        wiring = wire(capture(self._module, x))
        runs = Branching(wiring.program).branches(
            wiring.program.arguments(self._module, x),
            [
                (wiring.sites[layer].activation, self._gates.slots[layer].without(channels))
                for layer, channels in groups
            ],
        )
        found: dict[Node, Tensor] = {}
        for number, logits in runs:
            layer, channels = groups[number]
            found |= {(layer, c): row for c, row in zip(channels, logits, strict=False)}
            progress("channels", len(found), len(nodes))
        return torch.stack([found[node] for node in nodes]).to(self._x.dtype)


def chosen_channels(circuit: Circuit, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The channels of a circuit, boolean, by layer.

    Args:
        circuit: Of one of blocks the layers inside them are not looked at, so they stay whole.
        counts: How many channels each layer of the classifier has.

    Raises:
        OptionError: The circuit is not of this classifier.
    """
    blocks = circuit.graph.graph["granularity"] == "blocks"
    kept = {
        name: torch.full((count,), blocks and name not in circuit.layers)
        for name, count in counts.items()
    }
    nodes = [key for key, data in circuit.graph.nodes(data=True) if data["kind"] == "channel"]
    check_known(nodes, counts)
    for layer, channel in nodes:
        kept[layer][channel] = True
    return kept


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
