"""A finding in a few lines, and as one dictionary."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.circuit import Circuit
from expcam.circuits.scores import READOUT
from expcam.explain.explanation import Explanation, ties
from expcam.explain.match import Match
from expcam.explain.objectives import OBJECTIVES
from expcam.graphs.finding import Finding
from expcam.graphs.methods import MethodRow, method_rows
from expcam.graphs.wording import (
    channels_in,
    circuit_figures,
    circuit_size,
    claims_line,
    holding,
    keeping,
    matching,
    selectivity,
    share,
    unseen,
)

CIRCUIT_FIGURES = ["size", "faithfulness", "completeness", "label_kept"]
FOUND = ("reference", "size", "selectivity", "wrong", "edges_per_channel", "edges_hold")
"""What a discovered circuit says of itself."""


def lines(finding: Finding, out: Path, seconds: float) -> dict[str, str]:
    """What the command prints: a text for each thing found, by its name.

    Args:
        finding: What was found.
        out: The file that was written.
        seconds: Time that all of it took.
    """
    e = finding.explanation
    rival = f" rather than {e.contrast_name}" if e.contrast_name else ""
    without = f"{'lost' if e.necessary else 'kept'} without the mask's pixels"
    if not e.predicted:
        without = "the whole image has another label"
    texts = {
        "class": f"{e.label_name}{rival}, confidence {share(e.confidence)} ({e.classifier})",
        **({"nearly tied": ties(e.tied)} if e.tied else {}),
        "mask": f"{share(e.area)} of the pixels in {e.seconds:.1f} s, {e.cost:.0f} passes",
        "label kept": f"{_kept(e)} on {unseen(e)}; {without}",
        "noise": f"label kept on {e.draws_kept} of {e.draws} further draws: probability at least "
        f"{share(e.bound)} (95 % confidence)",
        **_matched(e),
        "circuit": f"NONE: {finding.no_circuit}"
        if finding.no_circuit
        else circuit_size(finding.circuit),
    }
    others_need = selectivity(finding.circuit)
    if others_need:
        texts["wrong class"] = others_need
    readout = finding.circuit if finding.no_circuit else finding.readout
    if readout is not None:
        texts["readout"] = circuit_size(readout)
    if finding.check is not None:
        claimed = claims_line(finding.check)
        if claimed:
            texts["claims"] = claimed
        texts["tested"] = circuit_figures(finding.check)
    others = [row for row in method_rows(finding.table) if not row.ours]
    if others:
        texts["others need"] = ", ".join(map(_need, others))
    if finding.instances:
        areas = ", ".join(share(each.area) for each in finding.instances)
        texts["instances"] = f"{len(finding.instances)} more: {areas} of the pixels"
    if finding.alternatives is not None:
        areas = ", ".join(share(each.area) for each in finding.alternatives)
        texts["alternatives"] = f"other pixels keep the label: {areas}" if areas else "none found"
    if finding.curve is not None:
        points = finding.curve[["match", "area"]].itertuples(index=False)
        texts["match costs"] = ", ".join(f"{share(area)} for {match:.0%}" for match, area in points)
    texts["written"] = f"{out} in {seconds:.0f} s"
    return texts


def as_dict(finding: Finding, out: Path, seconds: float) -> dict[str, object]:
    """The finding as numbers and texts, for JSON; None stands for what is not known."""
    e = finding.explanation
    return {
        "image": e.source,
        "classifier": e.classifier,
        "label": e.label,
        "label_name": e.label_name,
        "predicted": e.predicted,
        "confidence": e.confidence,
        "area": e.area,
        "holding": holding(e),
        "kept": e.kept,
        "robustness": e.robustness,
        "necessary": e.necessary,
        "draws": e.draws,
        "draws_kept": e.draws_kept,
        "bound": e.bound,
        "cell": e.cell,
        "group": list(e.group),
        "tied": dict(e.tied),
        "match": _match_as_dict(e.match),
        "match_controls": {name: _match_as_dict(each) for name, each in e.match_controls.items()},
        "match_asked": dict(e.match_asked),
        "objective": e.objective,
        "contrast": e.contrast,
        "mask_seconds": e.seconds,
        "cost": e.cost,
        "instances": [each.area for each in finding.instances],
        "alternatives": None
        if finding.alternatives is None
        else [each.area for each in finding.alternatives],
        "match_curve": None
        if finding.curve is None
        else [
            {
                name: value if isinstance(value, bool) else _known(value)
                for name, value in row.items()
            }
            for row in finding.curve.to_dict("records")
        ],
        "circuit": _circuit_as_dict(finding.circuit),
        "no_circuit": finding.no_circuit or None,
        "readout": None if finding.readout is None else _circuit_as_dict(finding.readout),
        "nodes": finding.circuit.graph.number_of_nodes(),
        "edges": finding.circuit.graph.number_of_edges(),
        "layers": len(finding.circuit.layers),
        "circuit_check": None if finding.check is None else _check_as_dict(finding.check),
        "necessary_channels": None if finding.necessary is None else list(finding.necessary),
        "methods": [
            {
                "method": row.method,
                "title": row.title,
                "area_kept": _known(row.area_kept),
                "area_robust": _known(row.area_robust),
                "seconds": _known(row.seconds),
                "reason": row.reason,
            }
            for row in method_rows(finding.table)
        ],
        "out": str(out),
        "seconds": seconds,
    }


def _kept(explanation: Explanation) -> str:
    """Whether the mask alone keeps the label; in capitals where it should and does not."""
    kept = keeping(explanation)
    if kept == "no" and explanation.kept:
        return "NO: on the mean colour, but only"
    if kept == "no":
        return "NO;" if OBJECTIVES[explanation.objective].keeping else "no;"
    return "mostly:" if kept == "mostly" else "yes;"


def _matched(explanation: Explanation) -> dict[str, str]:
    """What is kept of the computation; nothing where its layers cannot be looked at."""
    text = matching(explanation)
    return {"activations": text} if text else {}


def _need(row: MethodRow) -> str:
    if row.reason:
        return f"{row.title}: {row.reason}"
    return f"{row.title} {share(row.area_kept)} (all backgrounds {share(row.area_robust)})"


def _circuit_as_dict(circuit: Circuit) -> dict[str, object]:
    """How a circuit was found, and its size; None stands for what it does not say."""
    facts = circuit.graph.graph
    return {
        "method": facts.get("method", READOUT),
        "channels": channels_in(circuit),
        "edges": circuit.graph.number_of_edges(),
        **{name: facts.get(name) for name in FOUND},
    }


def _check_as_dict(check: CircuitCheck) -> dict[str, object]:
    """The test by zero ablation: how far each curve lies from 1, and the circuit's own figures."""
    distance = check.summary().loc["nodes", "zero"]["distance"]
    _, own = check.of("nodes", "zero")
    return {
        "distance": {name: _known(value) for name, value in distance.items()},
        **{
            str(name): {key: _known(value) for key, value in rows[CIRCUIT_FIGURES].mean().items()}
            for name, rows in own.groupby("method")
        },
        "controls_as_good": check.controls_as_good("zero"),
        "claims": [
            {name: None if pd.isna(value) else value for name, value in row.items()}
            for row in check.claims.to_dict("records")
        ],
        "untested": check.untested or None,
    }


def _match_as_dict(match: Match) -> dict[str, object]:
    return asdict(match) | {"divergence": _known(match.divergence)}


def _known(value: float) -> Any:
    """A number, or None for NaN, which JSON cannot hold."""
    return None if pd.isna(value) else float(value)
