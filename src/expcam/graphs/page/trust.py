"""Each test of a mask and of a circuit beside its control, green, amber or red by a stated rule."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from expcam.circuits.ablation.choices import CIRCUIT, RANDOM
from expcam.circuits.ablation.verification import WITHIN, CircuitCheck
from expcam.explain.explanation import Explanation
from expcam.explain.objectives import EVALUATION, OBJECTIVES
from expcam.graphs.methods import MethodRow
from expcam.graphs.wording import MATCH_CONTROLS, keeping, share, unseen

GREEN, AMBER, RED, UNKNOWN = "green", "amber", "red", "not computed"
RULE = (
    "Green: it holds, and the control does not. Amber: it holds in part, or the control does as "
    "well. Red: it does not hold. Grey: nobody tried."
)
HALF = 0.5
"""A decision needs a circuit without which less than so much of the logit is left."""
CLEARLY = 0.1
"""A mask keeps clearly more of the computation where its match is so much above its controls'."""
CONTROLS = ("disc",)
"""Methods that look neither at the image nor at the classifier."""
HOLDS = "Does the circuit hold without the rest?"
QUESTIONS = {
    "sufficient": HOLDS,
    "undisturbed": "Does it hold whatever a half of the rest says?",
    "discriminating": "Does it keep silent where its class is not?",
    "necessary": "Is it needed?",
    "specific": "Is it this photograph's own?",
    "selective": "Is the class easier to carry than a wrong one?",
    "stable": "Is the same circuit found again?",
    "equivalent": "Is it as sure as the whole model?",
    "minimal": "Could it be smaller?",
}
AT_LEAST, AT_MOST, NEAR = "at least", "at most", "within chance of"
BOUNDS = {"discriminating": AT_MOST, "equivalent": NEAR}
"""How a claim's figure must lie to its bar; of those that are not here it must reach it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One test.

    Attributes:
        question: What it asks.
        colour: `GREEN`, `AMBER`, `RED` or `UNKNOWN`.
        statement: What was found.
        control: What stands beside it; empty where nothing does.
        command: What would compute it, where it was not, or more of it.
        offer: What stands before the command.
    """

    question: str
    colour: str
    statement: str
    control: str = ""
    command: str = ""
    offer: str = "This would"


def mask_trials(
    explanation: Explanation,
    methods: Sequence[MethodRow],
    *,
    alternatives: Sequence[Explanation] | None = None,
    curve: bool = False,
    command: str = "",
) -> list[Trial]:
    """The tests of a mask.

    Args:
        explanation: The mask.
        methods: What others need.
        alternatives: Other pixels that do as well; None where nobody looked.
        curve: Whether it is known what a higher match costs.
        command: What the explanation was made with, if with the command.
    """
    e = explanation
    asked = OBJECTIVES[e.objective]
    missed = RED if asked.keeping else AMBER
    return [
        Trial(
            question="Are these pixels enough?",
            colour=GREEN if e.kept else missed,
            statement=f"On the mean colour the classifier {_says(e.kept, e)}.",
        ),
        Trial(
            question="Whatever stands around them?",
            colour=_around(e),
            statement=f"The label holds on {unseen(e)}, and on {e.draws_kept} of {e.draws} further "
            f"draws of noise: with a probability of at least {share(e.bound)} on the next one "
            "(95 % confidence). The search has seen none of them.",
        ),
        _rest(e, alternatives, command),
        _match(e, "" if curve else _again(e, command, "--match-curve")),
        Trial(
            question="Could it be smaller?",
            colour=GREEN if e.cell else AMBER,
            statement=(
                f"No component and no block of {e.cell}×{e.cell} pixels can be dropped: locally "
                "minimal, not proven to be the smallest."
                if e.cell
                else "It was not pruned, or not to the end: it may be larger than need be."
            ),
        ),
        _smaller(e, methods, command),
    ]


def unmatched(explanation: Explanation) -> str:
    """Why nobody knows what a mask keeps of the computation; empty where it is known."""
    e = explanation
    if math.isnan(e.divergence) or (e.match.pooled and not e.match_controls):
        return "it was not measured"
    if not e.match.pooled:
        return "no output of this classifier ends a stage (TorchScript hides them all)"
    return ""


def match_beside(explanation: Explanation) -> str:
    """What the controls keep of the last stage's response."""
    controls = explanation.match_controls.items()
    return ", ".join(
        f"{MATCH_CONTROLS[name]} {share(each.last)}"
        for name, each in controls
        if each.last is not None
    )


def circuit_trials(
    check: CircuitCheck | None,
    explanation: Explanation,
    wiring: str = "exact",
    *,
    no_circuit: str = "",
    command: str = "",
) -> list[Trial]:
    """The tests of a circuit, or one that says how it would be tested.

    Args:
        check: From `verify_circuit`; None where nobody tested it.
        explanation: That it was read on.
        wiring: Of the circuit's graph.
        no_circuit: Why none was discovered, where it is a readout in the place of one.
        command: What the explanation was made with, if with the command.
    """
    if no_circuit:
        missing = Trial(
            question="Is there a circuit?",
            colour=RED,
            statement=f"None was found: {no_circuit}. What is drawn is the published readout, a "
            "hypothesis.",
        )
        return [missing, *circuit_trials(check, explanation, wiring, command=command)]
    if check is None and wiring != "exact":
        return [
            Trial(
                question=HOLDS,
                colour=UNKNOWN,
                statement="The circuit is a hypothesis. Its classifier's wiring is not followed, "
                "so its channels cannot be ablated.",
            )
        ]
    if check is None:
        return [
            Trial(
                question=HOLDS,
                colour=UNKNOWN,
                statement="The circuit is a hypothesis; no channel was ablated to test it.",
                command=_again(explanation, command, "--verify"),
            )
        ]
    if check.claims.empty:
        untried = Trial(
            question="May it be called a circuit?",
            colour=UNKNOWN,
            statement=f"That could not be tried: {check.untested}.",
        )
        return [*([untried] if check.untested else []), *_by_zero(check)]
    return [_claimed(row) for row in check.claims.to_dict("records")]


def _claimed(row: Mapping[str, Any]) -> Trial:
    """One row of `CircuitCheck.claims`."""
    question = QUESTIONS.get(row["claim"], f"Is it {row['claim']}?")
    if row["passes"] is None or pd.isna(row["passes"]):
        return Trial(
            question=question,
            colour=UNKNOWN,
            statement=row["statement"],
            command="expcam.verify_circuit(classifier, circuit, [explanation], ...)",
        )
    figure, control, bar = row["figure"], row["control"], row["bar"]
    bound = BOUNDS.get(row["claim"], AT_LEAST)
    # What reaches its bar and does not pass has a control that does as well.
    reached = {AT_LEAST: figure >= bar, AT_MOST: figure <= bar, NEAR: False}[bound]
    return Trial(
        question=question,
        colour=GREEN if row["passes"] else AMBER if reached else RED,
        statement=f"{row['statement']} {bound.capitalize()} {bar:.2f} counts.",
        control="" if pd.isna(control) else f"{control:.2f} beside {figure:.2f}.",
    )


def _by_zero(check: CircuitCheck) -> list[Trial]:
    """What ablation by zero says of a circuit beside random channels."""
    _, rows = check.of("nodes", "zero")
    if rows.empty:
        return []
    means = rows.groupby("method")[["faithfulness", "completeness", "size", "label_kept"]].mean()
    ours, random = means.loc[CIRCUIT], means.loc[RANDOM]
    near = abs(ours["faithfulness"] - 1) <= WITHIN
    kept, good = ours["label_kept"] == 1, check.controls_as_good("zero")
    needed, needs_any = (each["completeness"] < HALF for each in (ours, random))
    return [
        Trial(
            question=HOLDS,
            colour=RED if not kept else GREEN if near and not good else AMBER,
            statement=f"With all other channels of its layers at zero, these {share(ours['size'])} "
            f"of the channels give {ours['faithfulness']:.2f} of the whole model's logit, and the "
            f"label {'holds' if kept else 'is lost'}. 1 is the whole model; "
            f"{1 - WITHIN:.1f} to {1 + WITHIN:.1f} counts as near.",
            control=f"as many random channels give {random['faithfulness']:.2f}."
            + (f" Over all sizes these choose as well: {', '.join(good)}." if good else ""),
        ),
        Trial(
            question="Does the decision need it?",
            colour=RED if not needed else AMBER if needs_any else GREEN,
            statement=f"Without these channels {ours['completeness']:.2f} of the logit is left; "
            f"less than {HALF:.2f} counts.",
            control=f"without as many random ones {random['completeness']:.2f} is left.",
        ),
    ]


def _smaller(e: Explanation, methods: Sequence[MethodRow], command: str) -> Trial:
    """Whether other methods need more pixels to hold on all backgrounds."""
    question = "Is it better than other methods?"
    ours = [row.area_robust for row in methods if row.ours]
    others = [row for row in methods if not row.ours and not row.reason]
    if not ours or not others:
        return Trial(
            question=question,
            colour=UNKNOWN,
            statement="No other method was run on this photograph.",
            command=_again(e, command, "--baselines gradcam,ig,disc"),
        )
    (own,) = ours
    as_small = [row for row in others if not _more(row.area_robust, own)]
    controlled = any(row.method in CONTROLS for row in as_small)
    needs = ", ".join(f"{row.title} {share(row.area_robust)}" for row in others)
    return Trial(
        question=question,
        colour=RED if controlled or math.isnan(own) else AMBER if as_small else GREEN,
        statement=f"To keep the label on all {len(EVALUATION)} backgrounds it needs {share(own)} "
        "of the pixels" + (" (a dash: no share was enough)." if math.isnan(own) else "."),
        control=f"the others need: {needs}.",
    )


def _more(area: float, own: float) -> bool:
    """Whether an area is larger than ours; none at all, NaN, is the largest."""
    return math.isnan(area) or area > own


def _around(e: Explanation) -> str:
    """Whether the label holds on the unseen backgrounds; amber where nobody asked for it."""
    asked = OBJECTIVES[e.objective]
    if not asked.keeping or not asked.fresh:
        return GREEN if e.robustness == 1 else AMBER
    return {"yes": GREEN, "mostly": AMBER, "no": RED}[keeping(e)]


def _says(kept: bool, e: Explanation) -> str:
    if e.contrast is not None:
        return f"{'prefers' if kept else 'does not prefer'} “{e.label_name}” to “{e.contrast_name}”"
    return f"{'says' if kept else 'does not say'} “{e.label_name}”"


def _rest(e: Explanation, alternatives: Sequence[Explanation] | None, command: str) -> Trial:
    """Whether the label is lost without the mask; if not, what else it rests on."""
    asks = e.predicted and not e.necessary
    statement, more = _without(e), ""
    if asks and alternatives is None:
        more = _again(e, command, "--alternatives 1")
    elif asks and alternatives:
        areas = " and ".join(share(each.area) for each in alternatives)
        statement += f" Other pixels that are enough are shown above as alternatives: {areas}."
    elif asks:
        statement += " No other small set of pixels was found that is enough."
    return Trial(
        question="Would the rest of the photograph do as well?",
        colour=GREEN if e.necessary else (RED if OBJECTIVES[e.objective].removal else AMBER),
        statement=statement,
        command=more,
        offer="What else would do is shown by",
    )


def _match(e: Explanation, command: str) -> Trial:
    """Whether the classifier computes of the mask what it does of the photograph."""
    question = "Does it keep the computation?"
    if unmatched(e):
        return Trial(
            question=question, colour=UNKNOWN, statement=f"Nobody can tell: {unmatched(e)}."
        )
    last = list(e.match.pooled)[-1]
    ours = e.match.pooled[last]
    ahead = round(ours - max(each.pooled[last] for each in e.match_controls.values()), 3)
    reached = {True: "reached", False: "NOT reached"}
    asked = [
        f"at least {share(least)} at {tap}, {reached[e.match.pooled[tap] >= least]} "
        f"({share(e.match.pooled[tap])})"
        for tap, least in e.match_asked.items()
    ]
    statement = (
        f"On the explanation the last stage ({last}) responds {share(ours)} alike "
        "(cosine similarity, averaged over space)."
    )
    if asked:
        statement += f" Asked for: {'; '.join(asked)}."
    if ahead <= 0:
        statement += (
            " It matches no better than its controls: it explains the label, not the computation."
        )
    good = GREEN if ahead >= CLEARLY else AMBER if ahead > 0 else RED
    return Trial(
        question=question,
        colour=good if e.matches else RED,
        statement=statement,
        control=f"{match_beside(e)}.",
        command=command,
        offer="What more of it costs in pixels is shown by",
    )


def _again(e: Explanation, command: str, option: str) -> str:
    """The command with one more option; the last of two that contradict counts."""
    plain = f"expcam-circuit {shlex.quote(e.source or 'IMG')} --out graph.html"
    return f"{command or plain} {option}"


def _without(e: Explanation) -> str:
    if not e.predicted:
        return f"The question does not arise: of the whole photograph it {_says(False, e)}."
    if e.necessary:
        return f"No: without the mask's pixels the classifier {_says(False, e)}."
    return f"Yes: without the mask's pixels the classifier still {_says(True, e)}."
