"""Findings in words that claim no more than was checked."""

import math

import pandas as pd

from expcam.circuits.ablation.choices import CIRCUIT, RANDOM
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.circuit import Circuit
from expcam.circuits.scores import BY_GRADIENT, READOUT
from expcam.errors import OptionError
from expcam.explain.explanation import Explanation, ties
from expcam.explain.match import GRADCAM, MOVED
from expcam.explain.objectives import EVALUATION, OBJECTIVES, REMOVAL

EDGE_MEANING = {
    "weight×activation": "L1 norm of the weights from source to target, every scale on the way "
    "folded in, times the source's activation.",
    "signed": "absolute value of what the source adds to the target on this image.",
    "gradient×activation": "absolute value of what the source adds to the target, times the "
    "gradient of the class's logit there.",
    "weight×activation×gradient": "L1 norm of the weights from source to target, every scale on "
    "the way folded in, times the source's activation and the summed absolute gradient of the "
    "class's logit by the target.",
    "activation": "the source's activation.",
    "weight": "L1 norm of the weights from source to target, every scale on the way folded in.",
}

MATCH_CONTROLS = {MOVED: "this mask elsewhere", GRADCAM: "Grad-CAM's pixels of this area"}
"""What stands beside a mask's match."""


def edge_meaning(score: str) -> str:
    """What an edge's score is, in words."""
    name = score.removesuffix(BY_GRADIENT)
    meaning = EDGE_MEANING.get(name, "as its name says.")
    if name == score:
        return meaning
    return f"{meaning} The gradients between modules, as they are on this image, stand for weights."


def share(value: float) -> str:
    """A share as a percentage; NaN as a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def unseen(explanation: Explanation) -> str:
    """On how many of the unseen backgrounds the label is kept."""
    count = len(EVALUATION)
    return f"{round(count * explanation.robustness)} of {count} unseen backgrounds"


def holding(explanation: Explanation) -> str:
    """Whether a mask does what was asked of it: ``yes``, ``mostly`` or ``no``.

    It must keep the label as far as its objective asks (see `keeping`), the label must be lost
    without it where the objective asks for that, and so must activations be kept.
    """
    asked = OBJECTIVES[explanation.objective]
    if asked.removal and not explanation.necessary:
        return "no"
    if not explanation.matches:
        return "no"
    return keeping(explanation) if asked.keeping else "yes"


def keeping(explanation: Explanation) -> str:
    """Whether a mask alone keeps the label: ``yes``, ``mostly`` or ``no``.

    ``no`` where it does not on the mean colour. Where more backgrounds are asked for, ``yes`` on
    all of the unseen ones, ``mostly`` on at least half of them, ``no`` on fewer.
    """
    if not explanation.kept:
        return "no"
    more = set(OBJECTIVES[explanation.objective].checks) - {"zero", REMOVAL}
    if not more or explanation.robustness == 1:
        return "yes"
    return "mostly" if explanation.robustness >= 0.5 else "no"


def matching(explanation: Explanation) -> str:
    """How far the activations are kept, beside the controls; empty where there are none.

    What is said is the cosine similarity at the last tap, averaged over space.
    """
    e, last = explanation, explanation.match.last
    if last is None:
        return ""
    texts = [f"keeps {last:.0%} of the last stage's response (cosine similarity)"]
    for tap, least in e.match_asked.items():
        if e.match.pooled[tap] < least:
            texts[0] += f", at {tap} {e.match.pooled[tap]:.1%} and NOT the {least:.1%} asked for"
    for name, control in e.match_controls.items():
        texts.append(f"{MATCH_CONTROLS[name]} {control.last:.0%}")
    return "; ".join(texts)


def verdict(explanation: Explanation) -> str:
    """The finding in a few sentences."""
    e, area = explanation, share(explanation.area)
    says = f"says “{e.label_name}”"
    if e.contrast is not None:
        says = f"prefers “{e.label_name}” to “{e.contrast_name}”"
    if OBJECTIVES[e.objective].keeping:
        tied = f" (But {ties(e.tied)}.)" if e.tied else ""
        return _sufficiency(e, says, area) + tied
    if not e.necessary:
        return (
            f"No part was found without which the classifier no longer {says}: "
            f"without the one shown, {area} of the pixels, it still does."
        )
    alone = "are" if e.kept else "are not"
    return (
        f"Without these {area} of the pixels the classifier no longer {says}. "
        f"On the mean colour they {alone} enough by themselves."
    )


def discovered(circuit: Circuit) -> bool:
    """Whether a circuit was found under ablation; else it was read."""
    return bool(circuit.graph.graph.get("method", READOUT) != READOUT)


def circuit_title(circuit: Circuit) -> str:
    """What a circuit is called beside others."""
    if discovered(circuit):
        return f"discovered ({circuit.graph.graph['method']})"
    return "published readout"


def channels_in(circuit: Circuit) -> int:
    """How many channels a circuit has, its class and the image's colours left out."""
    return sum(data["kind"] == "channel" for _, data in circuit.graph.nodes(data=True))


def excerpt_title(circuit: Circuit, drawn: Circuit) -> str:
    """How much of a circuit a drawing shows."""
    return f"shows {channels_in(drawn):,} of {channels_in(circuit):,} channels of the circuit"


def circuit_size(circuit: Circuit) -> str:
    """How large a circuit is, and how it was found."""
    facts = circuit.graph.graph
    edges, layers = circuit.graph.number_of_edges(), len(circuit.layers) - 1
    size = f"{channels_in(circuit):,} channels and {edges:,} edges in {layers} layers"
    if not discovered(circuit):
        return f"{size}, {circuit_title(circuit)}: a hypothesis"
    of_all = f", {share(facts['size'])} of all channels" if "size" in facts else ""
    against = f" against {facts['reference']}" if "reference" in facts else ""
    return f"{size}{of_all}, {circuit_title(circuit)}{against}"


def selectivity(circuit: Circuit) -> str:
    """How much more other classes need, by the same procedure; empty where nobody asked."""
    facts = circuit.graph.graph
    if "selectivity" not in facts:
        return ""
    return (
        f"at least {facts['selectivity']:.1f} times as many channels for a class that the "
        f"classifier does not say ({facts['wrong']})"
    )


def minimality(explanation: Explanation) -> str:
    """Whether the mask is known to be locally minimal, and at which cell size."""
    if not explanation.cell:
        return "The mask is not known to be locally minimal: it was not pruned, or not to the end."
    return (
        "The mask is locally minimal: no connected component of it and no block of "
        f"{explanation.cell}×{explanation.cell} pixels that it touches could be dropped without "
        "losing, on the search's own backgrounds, what was asked for. It is not proven to be the "
        "smallest."
    )


def circuit_verdict(check: CircuitCheck) -> str:
    """What zero ablation says of a circuit, in a few sentences."""
    ours, random = _kept(check)
    kept = "holds" if ours["label_kept"] == 1 else "is lost"
    if not check.holds:
        kept = "does not hold, as it does not with all of them"
    name, good = check.ours["nodes"], check.controls_as_good("zero")
    if good:
        beside = (
            "Over all sizes, controls that lie at least as near to 1 as the readout's own choice "
            f"by {name}: {', '.join(good)}."
        )
    else:
        beside = f"Over all sizes no control lies as near to 1 as the choice by {name}."
    return (
        f"Kept alone, all other channels of their layers at zero, these {share(ours['size'])} of "
        f"the channels give {ours['faithfulness']:.2f} of the whole model's logit, and the label "
        f"{kept}; as many random ones give {random['faithfulness']:.2f}. "
        f"Without them {ours['completeness']:.2f} of the logit is left; without as many random "
        f"ones {random['completeness']:.2f}. {beside}"
    )


def claims_line(check: CircuitCheck) -> str:
    """Which claims on a circuit pass, in one line; empty where there are none."""
    rows = check.claims.to_dict("records")
    answers = {"holds": True, "fails": False, "not tried": None}
    named = {
        word: [row["claim"] for row in rows if row["passes"] is answer]
        for word, answer in answers.items()
    }
    return "; ".join(f"{word}: {', '.join(claims)}" for word, claims in named.items() if claims)


def circuit_figures(check: CircuitCheck) -> str:
    """The same in one line, which says that it is of zero ablation: claims have references."""
    ours, random = _kept(check)
    good = check.controls_as_good("zero")
    return (
        f"all others at zero: {ours['faithfulness']:.2f} of the logit "
        f"(random {random['faithfulness']:.2f}), "
        f"label {'kept' if ours['label_kept'] == 1 else 'LOST'}; only it at zero: "
        f"{ours['completeness']:.2f} (random {random['completeness']:.2f}); "
        f"controls as good over all sizes: {', '.join(good) or 'none'}"
    )


def _kept(check: CircuitCheck) -> tuple["pd.Series[float]", "pd.Series[float]"]:
    """Mean figures of a circuit's channels, and of as many random ones."""
    _, rows = check.of("nodes", "zero")
    if rows.empty:
        raise OptionError("the page needs a circuit whose nodes were tested by zero ablation")
    means = rows.groupby("method")[["faithfulness", "completeness", "size", "label_kept"]].mean()
    return means.loc[CIRCUIT], means.loc[RANDOM]


def _sufficiency(e: Explanation, says: str, area: str) -> str:
    says = f"still {says}" if e.predicted else says
    if not e.kept:
        return (
            f"No mask was found under which the classifier {says}: "
            f"the one shown, {area} of the pixels, does not keep it."
        )
    sentence = f"These {area} of the pixels are enough: on the mean colour the classifier {says}"
    if e.robustness == 1:
        sentence += f", and so it does on all {len(EVALUATION)} unseen backgrounds."
    elif keeping(e) == "mostly":
        sentence += f", and so it does on {unseen(e)}."
    else:
        sentence += f", but only on {unseen(e)}."
    if e.necessary:
        return f"{sentence} Without them it no longer does."
    if not e.predicted:
        return f"{sentence} On the whole photograph it does not."
    return f"{sentence} It can do without them: the rest of the photograph is enough as well."
