"""Is a circuit what carried the decision? Its channels kept, or removed, beside controls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from expcam.circuits.ablation import Ablation, ablatable
from expcam.circuits.circuit import Circuit
from expcam.circuits.readout import gradients_of
from expcam.circuits.recording import Layer, record
from expcam.classifier.frozen import frozen
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.errors import OptionError
from expcam.explain.explanation import Explanation
from expcam.explain.metrics import BATCH
from expcam.explain.progress import Progress, silent

SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of each layer's channels that are kept, or removed."""
RANDOM_DRAWS = 5
ROUNDING = 1e-4
WITHIN = 0.2
"""A circuit is sufficient when the label holds and the logit lies so near the whole model's."""

Score = Callable[[Layer, Tensor, Tensor], Tensor]
"""Scores a layer's channels, from the layer, its activation and gradient ``(channels, pixels)``."""

SCORES: dict[str, Score] = {
    "relevance": lambda layer, a, g: (a * g).mean(1).abs(),
    "gradient×activation": lambda layer, a, g: (a * g).mean(1),
    "activation": lambda layer, a, g: a.abs().mean(1),
    "weight": lambda layer, a, g: layer.weight.abs().sum((1, 2)) * layer.scale.abs(),
}
"""What ranks the channels of a layer. ``relevance`` is the readout's own choice, the others are
controls; random channels stand beside them."""
OURS, RANDOM, CIRCUIT = "relevance", "random", "circuit"

ABLATIONS = ("zero", "mean", "resample")


@dataclass(frozen=True, kw_only=True)
class CircuitCheck:
    """What ablation says of a circuit.

    Attributes:
        curves: One row per image, ablation, method and size: ``image``, ``ablation``,
            ``method`` (a key of `SCORES`, or ``random``), ``draw`` (of the random channels),
            ``size`` (share of each layer's channels), ``faithfulness`` (of the kept channels: 1
            is the whole model's logit, 0 that of all channels ablated), ``completeness`` (the
            same with these channels removed and all others kept; 0 is best), ``label_kept``,
            ``logit_ratio``.
        circuit: The same columns for the circuit's own channels, and for as many random ones
            in each layer.
    """

    curves: pd.DataFrame
    circuit: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """One row per ablation and method, ours first.

        Columns: ``distance`` (mean over images and sizes of |faithfulness - 1|, the area between
        the curve and 1; lower is better, and overshoot counts against a circuit), ``removal``
        (mean |completeness|), ``smallest`` (median over images of the least size at which the
        label holds and the logit lies within 20 % of the whole model's; 1 where none does),
        ``label_kept`` (share of all rows).
        """
        rows = self.curves.assign(
            distance=(self.curves["faithfulness"] - 1).abs(),
            removal=self.curves["completeness"].abs(),
            sufficient=self.curves["label_kept"]
            & ((self.curves["logit_ratio"] - 1).abs() <= WITHIN),
        )
        groups = rows.groupby(["ablation", "method"], sort=False)
        smallest = (
            rows.assign(least=rows["size"].where(rows["sufficient"], 1.0))
            .groupby(["ablation", "method", "image", "draw"], sort=False)["least"]
            .min()
            .groupby(["ablation", "method"], sort=False)
            .median()
        )
        return pd.DataFrame(
            {
                "distance": groups["distance"].mean(),
                "removal": groups["removal"].mean(),
                "smallest": smallest,
                "label_kept": groups["label_kept"].mean(),
            }
        )

    def controls_as_good(self, ablation: str) -> list[str]:
        """Methods whose curve lies at least as near to 1 as that of the readout's own choice."""
        distance = self.summary()["distance"].loc[ablation]
        return [
            name for name in distance.index if name != OURS and not distance[name] > distance[OURS]
        ]


def verify_circuit(
    classifier: Classifier,
    circuit: Circuit,
    images: Sequence[Explanation | ImageSource | Tensor],
    *,
    reference: Sequence[ImageSource | Tensor] = (),
    ablations: Sequence[str] = ("zero",),
    sizes: Sequence[float] = SIZES,
    draws: int = RANDOM_DRAWS,
    seed: int = 0,
    progress: Progress = silent,
) -> CircuitCheck:
    """Test a circuit, and the choice of channels that it rests on, by ablation of channels.

    In every layer at once the channels that are not kept are replaced: by zero, by their mean
    over the reference images, or by their activation on one of these. Faithfulness is
    ``(f(kept) - f(none)) / (f(all) - f(none))`` of the class's logit, after Wang et al. (arXiv
    2211.00593); its distance from 1 is what the MIB benchmark (arXiv 2504.13151) calls CMD.

    Args:
        classifier: The classifier; it is left as it was found.
        circuit: Its class is the one that is looked at.
        images: On which the test is made; of an explanation its masked image.
        reference: Images for the ablations ``mean`` and ``resample``.
        ablations: Of `ABLATIONS`.
        sizes: Shares of each layer's channels, in (0, 1).
        draws: How many draws of random channels stand beside each choice.
        seed: Of the random channels and of the resampled images.
        progress: Called after each image.

    Raises:
        OptionError: An option that cannot be, or no reference where one is needed.
        ClassifierError: The readout cannot follow the classifier.
    """
    _check(circuit, images, reference, ablations, sizes, draws)
    label = int(circuit.graph.graph["label"])
    rng = torch.Generator().manual_seed(seed)
    curves: list[dict[str, object]] = []
    own: list[dict[str, object]] = []
    with frozen(classifier.module) as module:
        others = [classifier.prepare(each).input for each in reference]
        for place, image in enumerate(images):
            x = _masked(classifier, image)
            recording = record(module, x[None].requires_grad_())
            hidden = [name for name in recording.layers if name != recording.output_layer]
            counts = {name: recording.layers[name].activation.shape[1] for name in hidden}
            chosen = _of_circuit(circuit, counts)
            gradients = gradients_of(recording, label)
            scores = {
                method: {
                    name: score(
                        recording.layers[name],
                        recording.layers[name].activation.detach().reshape(counts[name], -1),
                        gradients[name].reshape(counts[name], -1),
                    ).cpu()
                    for name in hidden
                }
                for method, score in SCORES.items()
            }
            choices = _choices(scores, counts, sizes, draws, rng)
            matched = _matched(chosen, counts, draws, rng)
            copy, ablated = ablatable(recording)
            tester = _Tester(classifier.with_module(copy), ablated, x, label, others, rng)
            for ablation in ablations:
                tester.prepare(ablation)
                facts = {"image": place, "ablation": ablation}
                curves += [facts | row for row in tester.test(choices)]
                own += [facts | row for row in tester.test(matched)]
            progress("ablation", place + 1, len(images))
    return CircuitCheck(curves=pd.DataFrame(curves), circuit=pd.DataFrame(own))


@dataclass(frozen=True)
class _Choice:
    """Channels to keep, boolean ``(channels,)`` by layer, and how they were chosen."""

    method: str
    draw: int
    size: float
    keep: Mapping[str, Tensor]


class _Tester:
    """One image, one class, one way of ablation: many sets of kept channels."""

    def __init__(
        self,
        classifier: Classifier,
        ablated: Mapping[str, Ablation],
        x: Tensor,
        label: int,
        reference: Sequence[Tensor],
        rng: torch.Generator,
    ) -> None:
        self._classifier, self._ablated = classifier, ablated
        self._x, self._label, self._reference, self._rng = x, label, reference, rng
        with torch.inference_mode():
            self._full = classifier.logits(x[None])[0]

    @torch.inference_mode()
    def prepare(self, ablation: str) -> None:
        """Set what stands in place of a channel."""
        shown = list(self._reference) if ablation != "zero" else []
        if ablation == "resample":
            shown = [shown[int(torch.randint(len(shown), (), generator=self._rng))]]
        for each in self._ablated.values():
            each.replacement = torch.zeros_like(each.replacement)
        for x in shown:
            self._classifier.logits(x[None])
            for each in self._ablated.values():
                seen = each.seen
                if ablation == "mean":
                    seen = seen.mean(tuple(range(2, seen.ndim)), keepdim=True)
                each.replacement = each.replacement + seen / len(shown)

    def test(self, choices: Sequence[_Choice]) -> list[dict[str, object]]:
        """The figures of each choice of channels."""
        keeps = [choice.keep for choice in choices]
        nothing = {name: torch.zeros_like(keep) for name, keep in keeps[0].items()}
        removed = [{name: ~keep for name, keep in each.items()} for each in keeps]
        logits = self._logits([nothing, *keeps, *removed])
        full, none = float(self._full[self._label]), float(logits[0, self._label])
        # Where ablating everything changes nothing, there is nothing to be faithful to.
        span = full - none if abs(full - none) > ROUNDING * max(1, abs(full)) else float("nan")
        return [
            {
                "method": choice.method,
                "draw": choice.draw,
                "size": choice.size,
                "faithfulness": (float(on[self._label]) - none) / span,
                "completeness": (float(off[self._label]) - none) / span,
                "label_kept": int(on.argmax()) == self._label,
                "logit_ratio": float(on[self._label]) / full if full else float("nan"),
            }
            for choice, on, off in zip(
                choices, logits[1 : len(keeps) + 1], logits[len(keeps) + 1 :], strict=True
            )
        ]

    @torch.inference_mode()
    def _logits(self, sets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        rows = []
        for start in range(0, len(sets), BATCH):
            some = sets[start : start + BATCH]
            for name, each in self._ablated.items():
                each.keep = torch.stack([keep[name] for keep in some]).to(self._x)
            rows.append(self._classifier.logits(self._x.expand(len(some), -1, -1, -1)))
        for each in self._ablated.values():
            each.keep = torch.ones_like(each.keep[0])
        return torch.cat(rows)


def _masked(classifier: Classifier, image: Explanation | ImageSource | Tensor) -> Tensor:
    if not isinstance(image, Explanation):
        return classifier.prepare(image).input
    x = torch.from_numpy(image.input).to(classifier.device)
    return torch.where(torch.from_numpy(image.mask).to(x.device), x, 0)


def _count(channels: int, size: float) -> int:
    return max(1, round(size * channels))


def _choices(
    scores: Mapping[str, Mapping[str, Tensor]],
    channels: Mapping[str, int],
    sizes: Sequence[float],
    draws: int,
    rng: torch.Generator,
) -> list[_Choice]:
    """For each size the best channels of each layer by each score, and random ones."""
    result = []
    for size in sizes:
        wanted = {name: _count(count, size) for name, count in channels.items()}
        for method, by_layer in scores.items():
            keep = {}
            for name, score in by_layer.items():
                keep[name] = torch.zeros_like(score, dtype=torch.bool)
                keep[name][score.topk(wanted[name]).indices] = True
            result.append(_Choice(method, 0, size, keep))
        result += [
            _Choice(RANDOM, draw, size, _random(channels, wanted, rng)) for draw in range(draws)
        ]
    return result


def _matched(
    chosen: Mapping[str, Tensor], channels: Mapping[str, int], draws: int, rng: torch.Generator
) -> list[_Choice]:
    """The circuit's own channels, and as many random ones in each layer."""
    wanted = {name: int(keep.sum()) for name, keep in chosen.items()}
    size = sum(wanted.values()) / sum(channels.values())
    random = (_random(channels, wanted, rng) for _ in range(draws))
    return [
        _Choice(CIRCUIT, 0, size, chosen),
        *(_Choice(RANDOM, draw, size, keep) for draw, keep in enumerate(random)),
    ]


def _random(
    channels: Mapping[str, int], wanted: Mapping[str, int], rng: torch.Generator
) -> dict[str, Tensor]:
    """As many random channels of each layer as are wanted."""
    keep = {}
    for name, count in channels.items():
        keep[name] = torch.zeros(count, dtype=torch.bool)
        keep[name][torch.randperm(count, generator=rng)[: wanted[name]]] = True
    return keep


def _of_circuit(circuit: Circuit, channels: Mapping[str, int]) -> dict[str, Tensor]:
    kept = {name: torch.zeros(count, dtype=torch.bool) for name, count in channels.items()}
    for (layer, channel), data in circuit.graph.nodes(data=True):
        if data["kind"] != "channel":
            continue
        if layer not in kept or not 0 <= channel < len(kept[layer]):
            raise OptionError(f"the circuit's node {layer}:{channel} is not in this classifier")
        kept[layer][channel] = True
    return kept


def _check(
    circuit: Circuit,
    images: Sequence[object],
    reference: Sequence[object],
    ablations: Sequence[str],
    sizes: Sequence[float],
    draws: int,
) -> None:
    unknown = [name for name in ablations if name not in ABLATIONS]
    if unknown:
        raise OptionError(f"unknown ablation `{unknown[0]}`; there are: {', '.join(ABLATIONS)}")
    if not images:
        raise OptionError("no images given to test the circuit on")
    if set(ablations) - {"zero"} and not reference:
        raise OptionError("the ablations mean and resample need reference images")
    if not sizes or not all(0 < size < 1 for size in sizes):
        raise OptionError("sizes are shares of a layer's channels, above 0 and below 1")
    if draws < 1:
        raise OptionError(f"draws {draws} is out of range: at least 1")
