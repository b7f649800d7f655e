"""Is a circuit what carried the decision? Its parts kept, or removed, beside controls."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from expcam.circuits.ablation.choices import Choice, LogitsOf, choices, matched
from expcam.circuits.ablation.claims import COLUMNS, Claims, by_reference, kinds_for
from expcam.circuits.ablation.edges import Edges
from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.inputs import Subject, check_sizes, photographs, subject_of
from expcam.circuits.ablation.nodes import Nodes
from expcam.circuits.ablation.references import kinds_of
from expcam.circuits.ablation.trials import Asked, Trials
from expcam.circuits.circuit import Circuit, check_classifier, check_known
from expcam.circuits.formats import Node
from expcam.circuits.readout import shown
from expcam.circuits.scores import BY_GRADIENT, EDGE_SCORES, NODE_SCORES, score_name
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.classifier.network import unwrapped
from expcam.errors import CircuitError, OptionError, WiringError
from expcam.explain.explanation import Explanation
from expcam.explain.request import SEEDS
from expcam.progress import Progress, silent

SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Shares of each layer's parts that are kept, or removed."""
RANDOM_DRAWS = 5
ROUNDING = 1e-4
"""By so much two logits may differ for rounding alone, as a share of the whole model's."""
WITHIN = 0.2
"""A circuit is sufficient when the label holds and the logit differs from the whole model's by at
most this share of it."""

ABLATIONS = ("zero", "mean", "resample")
"""What stands in the place of ablated parts; see `verify_circuit`."""
WEIGHT_RANDOMISED = "randomised"
"""Method: the circuit's own score, measured on the weight-randomised control."""


def weight_randomised(module: nn.Module, rng: torch.Generator) -> nn.Module:
    """The weight-randomised control: a copy of a module with the numbers of each weight shuffled.

    Biases, and the scales of norms, stay as they are.
    """
    try:
        shuffled = copy.deepcopy(module)
    except (TypeError, RuntimeError):  # a lock, a file: such things are shared
        own = [value for each in module.modules() for value in vars(each).values()]
        copied = (Tensor, nn.Module, dict, list, tuple, set, MethodType)
        shared = {id(value): value for value in own if not isinstance(value, copied)}
        shuffled = copy.deepcopy(module, shared)
    for parameter in shuffled.parameters():
        if parameter.ndim > 1:
            order = torch.randperm(parameter.numel(), generator=rng).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].view_as(parameter)
    return shuffled


class Tested(Protocol):
    """The parts of a classifier, on one image and for one class, that a test ablates."""

    @property
    def whole(self) -> Tensor:
        """Logits ``(classes,)`` with everything kept."""

    def scores(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Scores of all parts by method and layer, measured on a module."""

    def chosen(self, circuit: Circuit) -> dict[str, Tensor]:
        """The parts of a circuit, boolean, by layer."""

    def against(self, references: Sequence[Tensor], *, averaged: bool) -> LogitsOf:
        """The test by one reference: images, or none for zero."""


SUBJECTS: dict[str, Callable[[Classifier, nn.Module, Tensor, int], Tested]] = {
    "nodes": Nodes,
    "edges": Edges,
}


@dataclass(frozen=True, kw_only=True)
class CircuitCheck:
    """What ablation says of a circuit.

    Attributes:
        curves: One row per image, parts (``nodes`` or ``edges``), ablation, method and size:
            ``image``, ``parts``, ``ablation``, ``method`` (a score's name, ``randomised``, or
            ``random``), ``draw`` (number of the draw, of random parts), ``size`` (share of each
            layer's parts), ``faithfulness`` (of what is kept: 1 is the whole model's logit, 0
            that of everything ablated), ``completeness`` (the same with these parts removed and
            all others kept; 0 is best), ``label_kept``, ``logit_ratio`` (to the whole model's
            logit). The method ``randomised`` is the circuit's own score on the
            weight-randomised control.
        circuit: The same columns for the circuit's own parts, and for as many random ones in
            each layer.
        ours: The score that the circuit was read with, for ``nodes`` and for ``edges``.
        holds: Whether the whole model gives the label on all images.
        claims: What may be said of the circuit, each beside a control; see `Claims.table`. Empty
            where the whole model does not hold its label on perturbed inputs, or says it without
            the evidence.
        references: How it fares against each kind of reference; see `by_reference`.
        untested: Why there are no claims; empty where there are.
    """

    curves: pd.DataFrame
    circuit: pd.DataFrame
    ours: Mapping[str, str]
    holds: bool
    claims: pd.DataFrame = field(default_factory=pd.DataFrame)
    references: pd.DataFrame = field(default_factory=pd.DataFrame)
    untested: str = ""

    def summary(self) -> pd.DataFrame:
        """One row per parts, ablation and method.

        Columns: ``distance`` (mean over images and sizes of |faithfulness - 1|, the area between
        the curve and 1; lower is better, and overshoot counts against a circuit), ``spread``
        (standard deviation of it over the draws, where there are several), ``cpr`` (mean
        faithfulness, as the MIB benchmark calls it), ``removal`` (mean |completeness|),
        ``smallest`` (median over images of the least size at which the label
        holds and the logit lies within 20 % of the whole model's; 1 where none does),
        ``label_kept`` (share of all rows).
        """
        rows = self.curves.assign(
            distance=(self.curves["faithfulness"] - 1).abs(),
            removal=self.curves["completeness"].abs(),
            sufficient=self.curves["label_kept"]
            & ((self.curves["logit_ratio"] - 1).abs() <= WITHIN),
        )
        rows["least"] = rows["size"].where(rows["sufficient"], 1.0)
        by = ["parts", "ablation", "method"]
        groups = rows.groupby(by, sort=False)
        per_draw = rows.groupby([*by, "draw"], sort=False)["distance"].mean()
        least = rows.groupby([*by, "image", "draw"], sort=False)["least"].min()
        return pd.DataFrame(
            {
                "distance": groups["distance"].mean(),
                "spread": per_draw.groupby(by, sort=False).std().fillna(0.0),
                "cpr": groups["faithfulness"].mean(),
                "removal": groups["removal"].mean(),
                "smallest": least.groupby(by, sort=False).median(),
                "label_kept": groups["label_kept"].mean(),
            }
        )

    def of(self, parts: str, ablation: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of ``curves`` and of ``circuit`` that are of these parts and this ablation."""
        curves, own = (
            table[(table["parts"] == parts) & (table["ablation"] == ablation)]
            for table in (self.curves, self.circuit)
        )
        return curves, own

    def controls_as_good(self, ablation: str, parts: str = "nodes") -> list[str]:
        """Methods whose curve lies at least as near to 1 as that of the circuit's own score."""
        distances = self.summary()["distance"]
        if (parts, ablation) not in distances.index.droplevel("method"):
            raise OptionError(f"{parts} were not tested by {ablation} ablation")
        distance = distances.loc[parts, ablation]
        ours = self.ours[parts]
        return [
            name for name in distance.index if name != ours and not distance[name] > distance[ours]
        ]


def verify_circuit(
    classifier: Classifier,
    circuit: Circuit,
    images: Sequence[Explanation | ImageSource | Tensor],
    *,
    reference: Sequence[ImageSource | Tensor] = (),
    others: Sequence[Circuit] = (),
    repeats: Sequence[Circuit] = (),
    optimal: bool = False,
    ablations: Sequence[str] = ("zero",),
    parts: Sequence[str] = ("nodes",),
    sizes: Sequence[float] = SIZES,
    draws: int = RANDOM_DRAWS,
    seed: int = 0,
    progress: Progress = silent,
) -> CircuitCheck:
    """Test a circuit, and the scores that it rests on, by ablation.

    Where nodes are ablated, the channels that are not kept are replaced in every layer at once:
    by zero, by their mean over the reference images, or by their activation on one of these.
    Where edges are, each channel sees its kept sources as they are and all others as on a
    reference: the mean colour, the mean of the reference images, or one of these.

    Faithfulness is ``(f(kept) - f(none)) / (f(all) - f(none))`` of the class's logit, after Wang
    et al. (arXiv 2211.00593); its distance from 1 is what the MIB benchmark (arXiv 2504.13151)
    calls CMD.

    The claims are tried on perturbed inputs (of an explanation composites of its mask, of an image
    crops), on inputs without the evidence, and against new draws of the references that the
    circuit was found with; none of them was used in `discover_circuit`, unless it was given the
    same photographs. How it fares against other references is told beside them.

    Args:
        classifier: The classifier; it is left as it was found.
        circuit: The circuit, whoever found it; the test looks at its class.
        images: What the test is made on; of an explanation, its masked image.
        reference: Images for the ablations ``mean`` and ``resample``, and for the claims.
        others: Circuits of other photographs, for the claim ``specific``.
        repeats: Circuits of the same decision, found with other seeds, for ``stable``.
        optimal: Whether optimal ablation is one of the references beside the claims; it takes
            another 120 passes.
        ablations: Of `ABLATIONS`.
        parts: ``nodes``, ``edges`` or both; edges take a pass for each choice.
        sizes: Shares of each layer's parts, in (0, 1).
        draws: How many draws of random parts stand beside each choice.
        seed: For the random parts, the shuffled weights and the resampled images.
        progress: Called after each image.

    Raises:
        OptionError: An option that cannot be, no reference where one is needed, or a circuit of
            another classifier.
        ClassifierError: The readout cannot follow the classifier, or it has attention and edges
            are asked for; or it is called inside ``torch.inference_mode()``.
    """
    require_autograd("verify_circuit")
    _check(circuit, images, reference, ablations, parts, sizes, draws)
    check_classifier("circuit", circuit.graph.graph.get("classifier"), classifier.name)
    label = int(circuit.graph.graph["label"])
    holds = True
    rng = torch.Generator().manual_seed(seed)
    curves: list[dict[str, object]] = []
    own: list[dict[str, object]] = []
    facts = circuit.graph.graph
    ours = {
        "nodes": score_name(facts["nodes"], NODE_SCORES, "node"),
        "edges": score_name(facts["edges"].removesuffix(BY_GRADIENT), EDGE_SCORES, "edge"),
    }
    with frozen(classifier.network) as module:
        subjects = [_subject_of(classifier, circuit, image) for image in images]
        check_sizes("image", [subject.x for subject in subjects], subjects[0].x.shape)
        photos = photographs(classifier, reference, subjects[0].x)
        shuffled = weight_randomised(unwrapped(classifier.module), rng)
        control = classifier.with_module(shuffled).network
        for place, image in enumerate(images):
            x = _input_of(classifier, image)
            for kind in parts:
                subject = SUBJECTS[kind](classifier, module, x, label)
                chosen = subject.chosen(circuit)
                kept = Asked.by(classifier, x, circuit).says
                holds = holds and bool(kept(subject.whole[None]))
                if not any(len(keep) for keep in chosen.values()):
                    raise WiringError(f"the classifier has no {kind} to ablate before its classes")
                scores = {
                    **subject.scores(module),
                    WEIGHT_RANDOMISED: subject.scores(control)[ours[kind]],
                }
                tested = list(choices(scores, sizes, draws, rng))
                beside = list(matched(chosen, draws, rng))
                for ablation in ablations:
                    logits_of = subject.against(
                        _references(ablation, list(photos), rng), averaged=ablation == "mean"
                    )
                    figures = _Figures(logits_of, subject.whole, label, kept)
                    row = {"image": place, "parts": kind, "ablation": ablation}
                    curves += [row | each for each in figures.of(tested)]
                    own += [row | each for each in figures.of(beside)]
            progress("ablation", place + 1, len(images))
        asked = Asked.by(classifier, subjects[0].x, circuit)
        try:
            claims, by_kind = _claimed(
                module, circuit, asked, subjects, photos, seed, others, repeats, optimal
            )
            untested = ""
        except CircuitError as error:
            claims, by_kind = pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame()
            untested = str(error)
    return CircuitCheck(
        curves=pd.DataFrame(curves),
        circuit=pd.DataFrame(own),
        ours=ours,
        holds=holds,
        claims=claims,
        references=by_kind,
        untested=untested,
    )


def _claimed(
    module: nn.Module,
    circuit: Circuit,
    asked: Asked,
    subjects: Sequence[Subject],
    photos: Tensor,
    seed: int,
    others: Sequence[Circuit],
    repeats: Sequence[Circuit],
    optimal: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims on a circuit, and how it fares against each kind of reference."""
    gates = Gates(module, subjects[0].x)
    rng = torch.Generator().manual_seed(SEEDS + seed)
    kinds = kinds_for(len(photos))
    trials = Trials.of(gates, asked, subjects, photos, kinds, rng)
    found = [k for k in str(circuit.graph.graph.get("reference", "")).split(", ") if k in kinds]
    claims = Claims(circuit, trials, found or kinds_of(photos), rng).table(others, repeats)
    return claims, by_reference(circuit, trials, len(photos), rng, optimal=optimal)


def _subject_of(
    classifier: Classifier, circuit: Circuit, image: Explanation | ImageSource | Tensor
) -> Subject:
    """An explanation, or the whole image where the circuit is of whole images."""
    if isinstance(image, Explanation):
        whole = bool(circuit.graph.graph.get("whole_image", False))
        return subject_of(classifier, image, whole_image=whole)
    return Subject(classifier.prepare(image).input, None)


def necessary_channels(
    classifier: Classifier, circuit: Circuit, image: Explanation | ImageSource | Tensor
) -> list[Node] | None:
    """The channels of a circuit whose ablation alone, by zero, loses the label.

    None where the label does not hold with nothing ablated.

    Args:
        classifier: The classifier; it is left as it was found.
        circuit: The circuit; the test looks at its class.
        image: The image; of an explanation, its masked image.

    Raises:
        OptionError: The circuit is not of this classifier.
        ClassifierError: The readout cannot follow the classifier, or it is called inside
            ``torch.inference_mode()``.
    """
    require_autograd("necessary_channels")
    check_classifier("circuit", circuit.graph.graph.get("classifier"), classifier.name)
    with frozen(classifier.network) as module:
        x = _input_of(classifier, image)
        asked = Asked.by(classifier, x, circuit)
        subject = Nodes(classifier, module, x, asked.label)
        nodes = [key for key, data in circuit.graph.nodes(data=True) if data["kind"] == "channel"]
        check_known(nodes, subject.counts)
        if not asked.says(subject.whole[None])[0]:
            return None
        held = asked.says(subject.without_each(nodes)).tolist() if nodes else []
    return [node for node, holds in zip(nodes, held, strict=True) if not holds]


def _references(ablation: str, others: Sequence[Tensor], rng: torch.Generator) -> Sequence[Tensor]:
    """The images that an ablation refers to."""
    if ablation == "zero":
        return []
    if ablation == "resample":
        return [others[int(torch.randint(len(others), (), generator=rng))]]
    return others


@dataclass(frozen=True)
class _Figures:
    """The figures of choices of parts, by one ablation."""

    logits_of: LogitsOf
    whole: Tensor
    label: int
    kept: Callable[[Tensor], Tensor]

    def of(self, tested: Sequence[Choice]) -> list[dict[str, object]]:
        """A row for each choice."""
        label = self.label
        nothing = {name: torch.zeros_like(keep) for name, keep in tested[0].keep.items()}
        logits = self.logits_of(
            [nothing, *(each.keep for each in tested), *(each.complement for each in tested)]
        )
        full, none = float(self.whole[label]), float(logits[0, label])
        # Where ablating everything changes nothing, there is nothing to be faithful to.
        span = full - none if abs(full - none) > ROUNDING * max(1, abs(full)) else float("nan")
        with_parts, without = logits[1 : len(tested) + 1], logits[len(tested) + 1 :]
        return [
            {
                "method": choice.method,
                "draw": choice.draw,
                "size": choice.size,
                "faithfulness": (float(on[label]) - none) / span,
                "completeness": (float(off[label]) - none) / span,
                "label_kept": bool(self.kept(on[None])),
                "logit_ratio": float(on[label]) / full if full else float("nan"),
            }
            for choice, on, off in zip(tested, with_parts, without, strict=True)
        ]


def _input_of(classifier: Classifier, image: Explanation | ImageSource | Tensor) -> Tensor:
    if isinstance(image, Explanation):
        check_classifier("explanation", image.classifier, classifier.name)
        return shown(classifier, image)
    return classifier.prepare(image).input


def _check(
    circuit: Circuit,
    images: Sequence[object],
    reference: Sequence[object],
    ablations: Sequence[str],
    parts: Sequence[str],
    sizes: Sequence[float],
    draws: int,
) -> None:
    for what, given, known in (("ablation", ablations, ABLATIONS), ("parts", parts, SUBJECTS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise OptionError(f"unknown {what} `{unknown[0]}`; there are: {', '.join(known)}")
        if not given:
            raise OptionError(f"no {what} given; there are: {', '.join(known)}")
    if not images:
        raise OptionError("no images given to test the circuit on")
    if set(ablations) - {"zero"} and not reference:
        raise OptionError("the ablations mean and resample need reference images")
    if not sizes or not all(0 < size < 1 for size in sizes):
        raise OptionError("sizes are shares of a layer's parts, above 0 and below 1")
    if draws < 1:
        raise OptionError(f"draws {draws} is out of range: at least 1")
