"""What is ablated in a test: the channels of a classifier, or its edges, on one image."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from expcam.circuits.ablation import Ablated, ablated
from expcam.circuits.circuit import Circuit, check_known
from expcam.circuits.edge_ablation import (
    Inputs,
    averaged,
    edge_scores,
    edge_shapes,
    edge_wiring,
    edges_of,
    inputs_of,
    with_edges,
)
from expcam.circuits.measuring import measure
from expcam.circuits.recording import record
from expcam.circuits.scores import EDGE_SCORES, NODE_SCORES, weight_norms
from expcam.circuits.wiring import Wiring
from expcam.classifier.model import BATCH, Classifier
from expcam.errors import OptionError

WEIGHT = "weight"
"""Method: the channels with the largest weights, whatever the image."""
RANDOMISED = "randomised"
"""Method: ours, measured on a copy of the classifier with its weights shuffled."""


def randomised(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """A copy of a classifier, the numbers of each weight shuffled; norms and biases stay."""
    shuffled = copy.deepcopy(module)
    for parameter in shuffled.parameters():
        if parameter.ndim > 1:
            order = torch.randperm(parameter.numel(), generator=rng).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
    return shuffled


class Subject(Protocol):
    """One image, one class; what is ablated are nodes, or edges."""

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Scores of all parts by method and layer, measured on a module."""

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The parts of a circuit, boolean, by layer."""

    def prepare(self, ablation: str, others: Sequence[Tensor], rng: torch.Generator) -> None:
        """Set what stands in the place of what is ablated."""

    def logits(self, keeps: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Logits ``(len(keeps), classes)`` with only these parts kept."""

    @property
    def whole(self) -> Tensor:
        """Logits ``(classes,)`` of the whole model."""


class Nodes:
    """Channels: one that is not kept is replaced at its layer's activation."""

    def __init__(self, classifier: Classifier, module: nn.Module, x: Tensor, label: int) -> None:
        self._label, self._x = label, x
        with torch.no_grad():
            recording = record(module, x[None])
            self._ablated: Ablated = ablated(module, recording)
            self._classifier = classifier.with_module(self._ablated)
            self.whole = classifier.logits(x[None])[0]
        self.counts = {
            name: layer.channels
            for name, layer in recording.layers.items()
            if name != recording.output_layer
        }

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Of all channels, by method and layer, measured on a module."""
        measured = measure(module, self._x[None], self._label, lambda _, __: torch.arange(0))
        return {
            method: {name: score(measured.channels[name]).cpu() for name in self.counts}
            for method, score in NODE_SCORES.items()
        } | {WEIGHT: {name: weight_norms(measured.recording, name).cpu() for name in self.counts}}

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """A circuit's channels."""
        # Between blocks the layers are not looked at, so that they stay whole.
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
    def prepare(self, ablation: str, others: Sequence[Tensor], rng: torch.Generator) -> None:
        """Set what stands in place of a channel."""
        images = _reference(ablation, others, rng)
        ablations = self._ablated.ablations
        sums = {name: torch.zeros_like(each.replacement) for name, each in ablations.items()}
        for x in images:
            for each in ablations.values():
                each.watching = True
            self._classifier.logits(x[None])
            for name, each in ablations.items():
                seen = each.last()
                if ablation == "mean":
                    axes = [d for d in range(seen.ndim) if d != each.axis]
                    seen = seen.mean(axes, keepdim=True).expand_as(seen)
                sums[name] = sums[name] + seen / len(images)
        for name, each in ablations.items():
            each.replacement = sums[name]

    @torch.no_grad()
    def logits(self, keeps: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """With only these channels kept; many choices run as one batch."""
        rows = []
        for start in range(0, len(keeps), BATCH):
            some = keeps[start : start + BATCH]
            for name, each in self._ablated.ablations.items():
                each.keep = torch.stack([keep[name] for keep in some]).to(self._x)
            rows.append(self._classifier.logits(self._x.expand(len(some), -1, -1, -1)))
        for each in self._ablated.ablations.values():
            each.keep = torch.ones_like(each.keep[0])
        return torch.cat(rows)


class Edges:
    """Weights: by one that is not kept a target sees its source as on a reference."""

    def __init__(self, classifier: Classifier, module: nn.Module, x: Tensor, label: int) -> None:
        self._module, self._x, self._label = module, x, label
        self._wiring: Wiring = edge_wiring(module, x[None])
        self._shapes = edge_shapes(self._wiring, module, x)
        with torch.no_grad():
            self._own = inputs_of(self._wiring, module, x[None])
        self.whole = self._own.logits[0]
        self._reference: Inputs = self._own

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Of all weights, by method and layer, measured on a module."""
        return edge_scores(self._wiring, module, self._x[None], self._label, list(EDGE_SCORES))

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The weights that a circuit's edges are."""
        if circuit.graph.graph["granularity"] != "layers":
            raise OptionError("edges between blocks are many weights; test them of layers")
        return edges_of(self._module, self._x, circuit, self._shapes)

    @torch.no_grad()
    def prepare(self, ablation: str, others: Sequence[Tensor], rng: torch.Generator) -> None:
        """Set the reference: the grey image, the others' mean, or one of them."""
        images = _reference(ablation, others, rng) or [torch.zeros_like(self._x)]
        runs = [inputs_of(self._wiring, self._module, x[None]) for x in images]
        self._reference = runs[0] if len(runs) == 1 else averaged(runs, self._wiring)

    @torch.no_grad()
    def logits(self, keeps: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """With only these weights kept; a pass for each choice."""
        return torch.cat(
            [
                with_edges(self._wiring, self._module, self._x[None], self._reference, keep)
                for keep in keeps
            ]
        )


SUBJECTS: dict[str, Callable[[Classifier, nn.Module, Tensor, int], Subject]] = {
    "nodes": Nodes,
    "edges": Edges,
}


def _reference(ablation: str, others: Sequence[Tensor], rng: torch.Generator) -> list[Tensor]:
    if ablation == "zero":
        return []
    if ablation == "resample":
        return [others[int(torch.randint(len(others), (), generator=rng))]]
    return list(others)
