"""What a set of channels is tried on: an input, a reference, and what should come of it.

There are four kinds of trials, and the decision is to be kept in two of them and lost in two:

- ``kept``: a perturbed input; all channels outside the set are at the reference.
- ``mixed``: the same, but a random half of the channels outside are left as they are. A set that
  lives off the absence of what speaks against the class fails here.
- ``contrast``: an input without the evidence; all channels outside are at the reference.
- ``removal``: a perturbed input; the set itself is at the reference, all other channels are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from expcam.circuits.ablation.gates import Gates, Reference, batch_on, stacked
from expcam.circuits.ablation.inputs import Subject, contrast_inputs, perturbed_inputs
from expcam.circuits.ablation.nodes import chosen_channels
from expcam.circuits.ablation.references import References
from expcam.circuits.circuit import Circuit
from expcam.classifier.model import Classifier
from expcam.explain.explanation import Explanation

KEPT, MIXED, CONTRAST, REMOVAL = "kept", "mixed", "contrast", "removal"
TRIALS = (KEPT, MIXED, CONTRAST, REMOVAL)
LOST = frozenset({CONTRAST, REMOVAL})
"""Trials in which the decision is to be lost."""
_Value = TypeVar("_Value")

INTACT = 0.5
"""Share of the channels outside that are left as they are in a mixed trial."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One of them.

    Attributes:
        what: Of `TRIALS`.
        kind: The kind of its reference.
        x: Its input ``(channels, H, W)``.
        reference: What stands in the place of ablated channels.
        intact: Boolean ``(channels of all layers,)``: those that are left as they are.
    """

    what: str
    kind: str
    x: Tensor
    reference: Reference
    intact: Tensor


class Asked:
    """A decision: whether a class, or several that count as one, is said before others.

    Args:
        classifier: Inside `frozen`.
        x: A normalised image ``(channels, H, W)``; only its shape counts.
        label: Index of the class.
        contrast: Index of the only one that it is compared to; None for all.
        group: Indices of the classes that count as one; empty where there is one.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: Tensor,
        label: int,
        contrast: int | None = None,
        group: Sequence[int] = (),
    ) -> None:
        several = classifier.is_multi_label(x)
        self.label = label
        self._deciding, self._place = classifier.deciding(
            label, contrast, group, multi_label=several
        )

    @classmethod
    def of(cls, classifier: Classifier, x: Tensor, explanation: Explanation) -> "Asked":
        """The decision that an explanation is of."""
        return cls(classifier, x, explanation.label, explanation.contrast, explanation.group)

    @classmethod
    def by(cls, classifier: Classifier, x: Tensor, circuit: Circuit) -> "Asked":
        """The decision that a circuit is of."""
        facts = circuit.graph.graph
        group = [int(each) for each in facts.get("group", "").split()]
        return cls(classifier, x, int(facts["label"]), facts.get("contrast"), group)

    def margins(self, logits: Tensor) -> Tensor:
        """From logits of all classes ``(n, classes)`` by how much each says the class."""
        chosen = self._deciding.chosen(logits)
        own = chosen[:, self._place]
        others = torch.cat([chosen[:, : self._place], chosen[:, self._place + 1 :]], 1)
        return own - others.amax(1)

    def says(self, logits: Tensor) -> Tensor:
        """Whether logits ``(n, classes)`` say the class, boolean ``(n,)``."""
        return self.margins(logits) > 0

    def shares(self, logits: Tensor) -> Tensor:
        """Logarithms of the probabilities of what there is to choose from, ``(n, choices)``."""
        return self._deciding.chosen(logits).log_softmax(1)

    @torch.no_grad()
    def whole(self, x: Tensor) -> Tensor:
        """Logits of all classes that the whole model gives, ``(n, classes)``."""
        batches = x.split(batch_on(x.device))
        return torch.cat([self._deciding.all_logits(some) for some in batches])

    def said(self, x: Tensor) -> Tensor:
        """Whether the whole model says the class, of each input ``(n, channels, H, W)``."""
        return self.says(self.whole(x))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many inputs and references trials are drawn from."""

    perturbed: int = 12
    contrast: int = 12
    references: int = 6


class Trials:
    """Draws trials from inputs and references that were made beforehand, and runs them.

    Args:
        gates: The classifier.
        asked: The decision.
        perturbed: Inputs that show the class.
        contrast: Inputs that do not.
        references: By kind.
    """

    def __init__(
        self,
        gates: Gates,
        asked: Asked,
        perturbed: Sequence[Tensor],
        contrast: Sequence[Tensor],
        references: Mapping[str, Sequence[Reference]],
    ) -> None:
        self.gates, self.asked = gates, asked
        self.perturbed, self.contrast, self.references = perturbed, contrast, references

    @classmethod
    def of(
        cls,
        gates: Gates,
        asked: Asked,
        subjects: Sequence[Subject],
        photos: Tensor,
        kinds: Sequence[str],
        rng: torch.Generator,
        counts: Counts = Counts(),
    ) -> "Trials":
        """Trials on images of one class.

        Args:
            gates: The classifier.
            asked: The decision.
            subjects: The images, or their explanations.
            photos: Normalised reference photographs ``(n, channels, H, W)``; those on which the
                whole model does not say the class are contrast inputs, too.
            kinds: Of references.
            rng: Draws all of it.
            counts: How many.

        Raises:
            OptionError: The whole model does not hold its label, or says it of everything; or a
                kind of reference needs more photographs.
        """
        perturbed = perturbed_inputs(subjects, asked.said, counts.perturbed, rng)
        others = list(photos[~asked.said(photos)]) if len(photos) else []
        contrast = contrast_inputs(subjects, others, asked.said, counts.contrast, rng)
        made = References(gates, photos, counts.references)
        references = {kind: made.pool(kind, subjects, rng) for kind in kinds}
        return cls(gates, asked, perturbed, contrast, references)

    def asking(self, asked: Asked) -> "Trials":
        """The same inputs and references for another class, which none of the inputs shows.

        Contrast inputs on which the whole model says that class are left out.
        """
        said = asked.said(torch.stack(list(self.contrast))).tolist()
        contrast = [x for x, held in zip(self.contrast, said, strict=True) if not held]
        return Trials(self.gates, asked, self.perturbed, contrast, self.references)

    def on(
        self,
        perturbed: Sequence[Tensor],
        further: Mapping[str, Sequence[Reference]],
    ) -> "Trials":
        """The same with other perturbed inputs, and with further kinds of references."""
        references = {**self.references, **further}
        return Trials(self.gates, self.asked, perturbed, self.contrast, references)

    def channels_of(self, circuit: Circuit) -> Tensor:
        """A circuit's channels, boolean ``(channels of all layers,)``, on the inputs' device.

        Raises:
            OptionError: The circuit is not of this classifier.
        """
        keep = self.gates.flat(chosen_channels(circuit, self.gates.counts))
        return keep.to(self.perturbed[0].device)

    def draw(self, what: str, kind: str, rng: torch.Generator) -> Trial:
        """A trial with an input and a reference at random."""
        inputs = self.contrast if what == CONTRAST else self.perturbed
        intact = torch.rand(self.gates.total, generator=rng) < (INTACT if what == MIXED else 0)
        x = _one_of(inputs, rng)
        return Trial(what, kind, x, _one_of(self.references[kind], rng), intact.to(x.device))

    def several(
        self, what: str, kinds: Sequence[str], count: int, rng: torch.Generator
    ) -> list[Trial]:
        """So many trials, the kinds of references in turn."""
        return [self.draw(what, kinds[i % len(kinds)], rng) for i in range(count)]

    def logits(self, keeps: Sequence[Tensor], trials: Sequence[Trial]) -> Tensor:
        """Logits ``(trials, classes)``, each of a set of its own.

        Args:
            keeps: For each trial the set, boolean or from 0 to 1, ``(channels of all layers,)``.
            trials: As many.
        """
        gates = [_gate(keep, trial) for keep, trial in zip(keeps, trials, strict=True)]
        return self.gates.logits(
            torch.stack([trial.x for trial in trials]),
            torch.stack(gates),
            stacked([trial.reference for trial in trials]),
        )

    @torch.no_grad()
    def margins(self, keep: Tensor, trials: Sequence[Trial]) -> Tensor:
        """By how much the class is said in each of some trials, ``(trials,)``.

        Args:
            keep: One set, ``(channels of all layers,)``, or one for each trial.
            trials: The trials.
        """
        keeps = keep.expand(len(trials), -1)
        rows, batch = [], batch_on(keep.device)
        for start in range(0, len(trials), batch):
            some = trials[start : start + batch]
            logits = self.logits(list(keeps[start : start + batch]), some)
            rows.append(self.asked.margins(logits))
        return torch.cat(rows).cpu()

    def whole_margins(self, trials: Sequence[Trial]) -> Tensor:
        """By how much the whole model says the class on the inputs of trials, ``(trials,)``."""
        inputs = list({id(trial.x): trial.x for trial in trials}.values())
        margins = self.asked.margins(self.asked.whole(torch.stack(inputs))).cpu()
        by_input = {id(x): margin for x, margin in zip(inputs, margins, strict=True)}
        return torch.stack([by_input[id(trial.x)] for trial in trials])

    def says(self, keep: Tensor, trials: Sequence[Trial]) -> Tensor:
        """Whether one set says the class in each of some trials, boolean ``(trials,)``."""
        return self.margins(keep, trials) > 0


def _gate(keep: Tensor, trial: Trial) -> Tensor:
    gate = keep.float()
    if trial.what == REMOVAL:
        gate = 1 - gate
    return torch.where(trial.intact, torch.ones_like(gate), gate) if trial.what == MIXED else gate


def _one_of(values: Sequence[_Value], rng: torch.Generator) -> _Value:
    return values[int(torch.randint(len(values), (), generator=rng))]
