"""What may be said of a circuit, each claim beside a control that any class would fail.

Keeping the label is cheap: a set that may leave out what speaks against a class makes any class
win. So a circuit is also shown inputs without the evidence, is given back a half of what it left
out, is removed, and is compared to what its own procedure finds for classes that are not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from scipy.stats import binomtest, fisher_exact
from torch import Tensor

from expcam.circuits.ablation.optimal import optimal_reference
from expcam.circuits.ablation.references import KINDS, PHOTOS, RESAMPLE
from expcam.circuits.ablation.trials import CONTRAST, KEPT, MIXED, REMOVAL, Trial, Trials
from expcam.circuits.circuit import Circuit

BARS: Mapping[str, float] = {
    **{"sufficient": 0.95, "undisturbed": 0.95, "discriminating": 0.1, "necessary": 0.95},
    **{"specific": 0.8, "selective": 2.0, "stable": 0.5, "equivalent": 0.5, "minimal": 1.0},
}
"""What a figure must reach; what ``discriminating`` must not exceed, and ``equivalent`` not differ
from beyond chance."""
COUNT = 24
"""Trials behind each figure."""
LEVEL = 0.05
"""A control must do worse beyond chance, at this level."""
BY_REFERENCE = 8
"""Trials against each kind of reference."""
SINGLE, SINGLE_TRIALS = 12, 8
"""So many channels are left out one by one, each in so many trials."""
OPTIMAL = "optimal"
"""The reference of least loss, in `by_reference`."""
Beside = tuple[Tensor, Tensor]
"""Margins ``(trials,)`` of a set, and of as many random channels of each layer, others in each."""
COLUMNS = ("claim", "figure", "control", "bar", "p", "passes", "statement")


@dataclass(frozen=True)
class Claims:
    """Makes the claims on one circuit.

    Args:
        circuit: The circuit.
        trials: On inputs and references that it was not found with.
        kinds: The references that they are drawn against.
        rng: Draws them.
    """

    circuit: Circuit
    trials: Trials
    kinds: Sequence[str]
    rng: torch.Generator

    def table(self, others: Sequence[Circuit], repeats: Sequence[Circuit]) -> pd.DataFrame:
        """One row per claim.

        Columns: ``claim``; ``figure`` and ``control`` (shares of trials, or for ``selective`` a
        ratio); ``bar``; ``p`` (of a difference as large by chance, Fisher's exact test);
        ``passes`` (whether the bar is reached and the control differs; None where nothing was
        tested); ``statement`` (a sentence).

        Args:
            others: Circuits of other photographs.
            repeats: Circuits of the same decision, found with other seeds.
        """
        keep = self.trials.channels_of(self.circuit)
        drawn, intact, removed = (self._drawn(what) for what in (KEPT, MIXED, REMOVAL))
        alone = self._beside_random(keep, drawn)
        rows = [
            self._kept("sufficient", alone, "all other channels replaced"),
            self._kept(
                "undisturbed",
                self._beside_random(keep, intact),
                "a random half of the others left as it is",
            ),
            self._discriminating(keep, alone),
            self._necessary(keep, removed),
            self._specific(keep, others, removed),
            self._selective(),
            self._stable(keep, repeats),
            self._equivalent(drawn, alone),
            self._minimal(keep),
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _kept(self, claim: str, margins: Beside, how: str) -> tuple[object, ...]:
        figure, control = (_positive(each) for each in margins)
        p = _p(figure, control)
        return self._row(
            claim,
            figure,
            control,
            p,
            figure >= BARS[claim] and p < LEVEL,
            f"Alone, {how}, it says the class in {_of(figure)} trials; as many random channels of "
            f"each layer in {_of(control)}.",
        )

    def _discriminating(self, keep: Tensor, alone: Beside) -> tuple[object, ...]:
        shown = _positive(alone[0])
        figure = self._share(keep, self._drawn(CONTRAST))
        p = _p(shown, figure)
        return self._row(
            "discriminating",
            figure,
            shown,
            p,
            figure <= BARS["discriminating"] and p < LEVEL,
            f"Alone, on inputs without the evidence, it says the class in {_of(figure)} trials; "
            f"on those with it in {_of(shown)}. The whole model says it on none of the former.",
        )

    def _necessary(self, keep: Tensor, drawn: Sequence[Trial]) -> tuple[object, ...]:
        figure, control = (1 - _positive(each) for each in self._beside_random(keep, drawn))
        p = _p(figure, control)
        return self._row(
            "necessary",
            figure,
            control,
            p,
            figure >= BARS["necessary"] and p < LEVEL,
            f"Without it the class is lost in {_of(figure)} trials; without as many random "
            f"channels of each layer in {_of(control)}.",
        )

    def _specific(
        self, keep: Tensor, others: Sequence[Circuit], drawn: Sequence[Trial]
    ) -> tuple[object, ...]:
        if not others:
            return self._untested("specific", "No circuits of other photographs were given.")
        foreign = [
            self._as_large(self.trials.channels_of(other), int(keep.sum())) for other in others
        ]
        held = [self._share(each, drawn) for each in foreign]
        figure, control = sum(held) / len(held), self._share(keep, drawn)
        p = _p(figure, control)
        return self._row(
            "specific",
            figure,
            control,
            p,
            figure >= BARS["specific"] and p < LEVEL,
            f"Without the circuits of {len(others)} other photographs, at most as large, the class "
            f"is kept in {figure:.0%} of the trials; without its own in {control:.0%}.",
        )

    def _selective(self) -> tuple[object, ...]:
        facts = self.circuit.graph.graph
        if "selectivity" not in facts:
            return self._untested(
                "selective", "Its procedure was not asked for classes that are not there."
            )
        figure = float(facts["selectivity"])
        return self._row(
            "selective",
            figure,
            1.0,
            float("nan"),
            figure >= BARS["selective"],
            f"Asked for {facts['wrong'].replace(', ', ' and for ')}, which the model does not say, "
            f"the same procedure needs a share of {facts['wrong_sizes'].replace(', ', ' and ')} of "
            f"the channels (1.000: none were enough): at least {figure:.1f} times as many.",
        )

    def _stable(self, keep: Tensor, repeats: Sequence[Circuit]) -> tuple[object, ...]:
        if not repeats:
            return self._untested("stable", "It was not looked for again with other seeds.")
        figures, chance = [], []
        for other in repeats:
            again = self.trials.channels_of(other)
            figures.append(_jaccard(keep, again))
            chance.append(_jaccard(keep, self._random(again)))
        figure, control = (sum(each) / len(each) for each in (figures, chance))
        return self._row(
            "stable",
            figure,
            control,
            float("nan"),
            figure >= BARS["stable"] and figure > control,
            f"Found again with {len(repeats)} other seeds it has a Jaccard index of {figure:.2f} "
            f"to them; as many random channels of each layer {control:.2f}.",
        )

    def _equivalent(self, drawn: Sequence[Trial], alone: Beside) -> tuple[object, ...]:
        """As likely to say the class by more as by less than the whole model (arXiv 2410.13032)."""
        whole = self.trials.whole_margins(drawn)
        figure, control = (float((each > whole).float().mean()) for each in alone)
        p = float(binomtest(round(figure * COUNT), COUNT).pvalue)
        return self._row(
            "equivalent",
            figure,
            control,
            p,
            p >= LEVEL,
            f"It says the class by more than the whole model in {_of(figure)} trials, by less in "
            f"the others; as many random channels of each layer by more in {_of(control)}.",
        )

    def _minimal(self, keep: Tensor) -> tuple[object, ...]:
        """Which rung of minimality holds on a sample (arXiv 2602.16823)."""
        drawn = self.trials.several(KEPT, self.kinds, SINGLE_TRIALS, self.rng)
        places = keep.nonzero()[:, 0]
        sample = places[torch.randperm(len(places), generator=self.rng)[:SINGLE].to(keep.device)]
        needed = 0
        for place in sample:
            smaller = keep.clone()
            smaller[place] = False
            needed += not bool(self.trials.says(smaller, drawn).all())
        figure = needed / max(1, len(sample))
        rung = "No rung of minimality is shown"
        if figure == 1:
            rung = "On this sample it is locally minimal: no single channel can be spared"
        elif figure > 0:
            rung = "It is quasi-minimal: some channel cannot be spared"
        return self._row(
            "minimal",
            figure,
            float("nan"),
            float("nan"),
            figure >= BARS["minimal"],
            f"Of {len(sample)} channels at random {needed} cannot be left out alone without "
            f"losing the class in one of {SINGLE_TRIALS} trials. {rung}.",
        )

    def _row(
        self, claim: str, figure: float, control: float, p: float, passes: bool, statement: str
    ) -> tuple[object, ...]:
        against = "" if claim == "selective" else f" Reference: {', '.join(self.kinds)}."
        return claim, figure, control, BARS[claim], p, passes, statement + against

    def _untested(self, claim: str, reason: str) -> tuple[object, ...]:
        nan = float("nan")
        return claim, nan, nan, BARS[claim], nan, None, reason

    def _drawn(self, what: str) -> list[Trial]:
        return self.trials.several(what, self.kinds, COUNT, self.rng)

    def _share(self, keep: Tensor, trials: Sequence[Trial]) -> float:
        return _positive(self.trials.margins(keep, trials))

    def _beside_random(self, keep: Tensor, trials: Sequence[Trial]) -> Beside:
        random = torch.stack([self._random(keep) for _ in trials])
        return self.trials.margins(keep, trials), self.trials.margins(random, trials)

    def _random(self, keep: Tensor) -> Tensor:
        """As many random channels of each layer."""
        layers = self.trials.gates.split(keep).values()
        orders = [torch.randperm(len(own), generator=self.rng) for own in layers]
        return torch.cat(
            [own[order.to(own.device)] for own, order in zip(layers, orders, strict=True)]
        )

    def _as_large(self, keep: Tensor, most: int) -> Tensor:
        """A set, or at random as much of it as is said."""
        places = keep.nonzero()[:, 0]
        chosen = places[torch.randperm(len(places), generator=self.rng)[:most].to(keep.device)]
        smaller = torch.zeros_like(keep)
        smaller[chosen] = True
        return smaller


def by_reference(
    circuit: Circuit, trials: Trials, photos: int, rng: torch.Generator, *, optimal: bool = False
) -> pd.DataFrame:
    """How a circuit fares against each kind of reference, also those that it was not found with.

    Columns: ``reference``; ``kept``, ``contrast`` and ``removal``: in what share of such trials it
    says the class.

    Args:
        circuit: The circuit.
        trials: With references of all `kinds_for` so many photographs.
        photos: How many reference photographs there are.
        rng: Draws the trials.
        optimal: Whether the constants that harm it least are one of them (see
            `optimal_reference`), learned on half of the inputs and tested on the other.
    """
    keep = trials.channels_of(circuit)
    kinds = kinds_for(photos)
    if optimal:
        half = len(trials.perturbed) // 2
        learned = trials.on(trials.perturbed[:half], {})
        drawn = learned.several(KEPT, kinds[:1], half, rng)
        found = optimal_reference(learned, keep, drawn)
        trials = trials.on(trials.perturbed[half:], {OPTIMAL: [found]})
        kinds = [*kinds, OPTIMAL]
    rows = []
    for kind in kinds:
        row: dict[str, object] = {"reference": kind}
        for what in (KEPT, CONTRAST, REMOVAL):
            says = trials.says(keep, trials.several(what, [kind], BY_REFERENCE, rng))
            row[what] = float(says.float().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def kinds_for(photos: int) -> list[str]:
    """The kinds of references that so many photographs allow."""
    least = {PHOTOS: 1, RESAMPLE: 2}
    return [kind for kind in KINDS if photos >= least.get(kind, 0)]


def _p(first: float, second: float) -> float:
    """Fisher's exact test of two shares of `COUNT` trials."""
    counts = [[round(share * COUNT), COUNT - round(share * COUNT)] for share in (first, second)]
    return float(fisher_exact(counts).pvalue)


def _positive(margins: Tensor) -> float:
    """In what share of trials the class is said."""
    return float((margins > 0).float().mean())


def _of(share: float) -> str:
    return f"{round(share * COUNT)} of {COUNT}"


def _jaccard(first: Tensor, second: Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())
