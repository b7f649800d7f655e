"""The first screen: a few figures with their plain meaning, and other methods in one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from expcam.circuits.circuit import Circuit
from expcam.circuits.comparison import common_circuit
from expcam.explain.explanation import Explanation
from expcam.explain.objectives import EVALUATION
from expcam.graphs.methods import MethodRow
from expcam.graphs.page.trust import GREEN, UNKNOWN, Trial, match_beside, unmatched
from expcam.graphs.wording import channels_in, discovered, share


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A figure with its plain meaning."""

    name: str
    value: str
    meaning: str


def facts(explanation: Explanation) -> list[Fact]:
    """The figures of a mask that everybody should know."""
    e = explanation
    says = f"prefers “{e.label_name}”" if e.contrast_name else f"says “{e.label_name}”"
    if not e.predicted:
        without = Fact(name="without them", value="–", meaning=f"it never {says}")
    elif e.necessary:
        without = Fact(name="without them", value="lost", meaning=f"the rest alone never {says}")
    else:
        without = Fact(name="without them", value="kept", meaning=f"the rest alone {says} as well")
    return [
        Fact(
            name="pixels needed",
            value=share(e.area),
            meaning=f"of the photograph; on them alone the classifier {says}, "
            f"confidence {share(e.masked_confidence)}",
        ),
        Fact(
            name="holds on",
            value=f"{round(len(EVALUATION) * e.robustness)} of {len(EVALUATION)}",
            meaning="unseen backgrounds put in place of the other pixels; on a further one of "
            f"noise with a probability of at least {share(e.bound)}",
        ),
        without,
        _computation(e),
    ]


def _computation(e: Explanation) -> Fact:
    """How much of the last stage's response is kept, beside the controls."""
    name = "keeps of the computation"
    if e.match.last is None or unmatched(e):
        return Fact(name=name, value="–", meaning=unmatched(e))
    return Fact(
        name=name,
        value=share(e.match.last),
        meaning="of the last stage’s response (cosine similarity, averaged over space); "
        + match_beside(e),
    )


def circuit_fact(circuit: Circuit, trials: Sequence[Trial]) -> Fact:
    """The size of a circuit, and how far it was tested."""
    graph = circuit.graph
    size = graph.graph.get("size")
    of_all = "" if size is None else f"{share(size)} of all, "
    tried = [trial for trial in trials if trial.colour != UNKNOWN]
    good = sum(trial.colour == GREEN for trial in tried)
    tested = f"{good} of {len(tried)} tests green" if tried else "a hypothesis: not tested"
    return Fact(
        name="the circuit" if discovered(circuit) else "the readout",
        value=f"{channels_in(circuit):,} channels",
        meaning=f"{of_all}in {len(circuit.layers) - 1} layers, {graph.number_of_edges():,} edges; "
        f"{tested}",
    )


def readout_fact(readout: Circuit, first: Circuit) -> Fact:
    """The size of an object's readout, and what it shares with the first object's."""
    own = channels_in(readout)
    return Fact(
        name="its readout",
        value=f"{own:,} channels",
        meaning=f"{_both([readout, first]):,} of them are also in object 1’s readout; "
        "a hypothesis: not tested",
    )


def in_common(readouts: Sequence[Circuit]) -> str:
    """How many channels the readouts of several objects share; empty where there are not two."""
    if len(readouts) < 2:
        return ""
    sizes = ", ".join(f"{channels_in(each):,}" for each in readouts)
    return (
        f"The readouts of the {len(readouts)} objects ({sizes} channels) have {_both(readouts):,} "
        "channels in common."
    )


def _both(circuits: Sequence[Circuit]) -> int:
    return channels_in(common_circuit(circuits, share=1))


def better(rows: Sequence[MethodRow]) -> str:
    """In one sentence what other methods need beside the mask."""
    (ours,) = (row.area_robust for row in rows if row.ours)
    others = [row for row in rows if not row.ours and not row.reason]
    where = f"the label on all {len(EVALUATION)} backgrounds"
    if math.isnan(ours):
        return f"No share of this mask’s pixels that was tried keeps {where}."
    if not others:
        return f"This mask needs {share(ours)} of the pixels to keep {where}."
    needs = [
        f"{row.title} never does"
        if math.isnan(row.area_robust)
        else f"{row.title} needs {share(row.area_robust)} ({row.area_robust / ours:.1f} times)"
        for row in others
    ]
    return f"To keep {where} this mask needs {share(ours)} of the pixels; {', '.join(needs)}."
