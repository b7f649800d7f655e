"""The page: one HTML file that needs no network."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.channels import ChannelFacts
from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import FORMAT
from expcam.errors import OptionError
from expcam.explain.compare.attributions import BASELINES
from expcam.explain.explanation import Explanation
from expcam.explain.objectives import EVALUATION
from expcam.files import written_whole
from expcam.graphs.figures import faithfulness_figure, match_figure
from expcam.graphs.methods import MethodRow, method_rows
from expcam.graphs.page.channels import circuit_data
from expcam.graphs.page.headline import better, circuit_fact, in_common
from expcam.graphs.page.provenance import REFERENCES, Provenance, made_with
from expcam.graphs.page.taps import match_rows
from expcam.graphs.page.trust import (
    AMBER,
    GREEN,
    RED,
    RULE,
    UNKNOWN,
    circuit_trials,
    mask_trials,
)
from expcam.graphs.page.views import first_screen, readout_title
from expcam.graphs.pictures import (
    data_uri,
    heatmap,
    outlined_at,
    small,
)
from expcam.graphs.wording import (
    circuit_size,
    circuit_title,
    edge_meaning,
    minimality,
    selectivity,
    share,
)

SCRIPTS = (
    *("base.js", "state.js", "view.js", "paths.js", "maps.js", "drawing.js"),
    *("panel.js", "controls.js", "pages.js", "main.js"),
)
"""In this order: each sees the names of those before it."""
PLOTLY = "vendor/plotly-basic.min.js"
MARKS = {GREEN: "green: holds", AMBER: "amber: in part", RED: "red: does not", UNKNOWN: UNKNOWN}
CUTS = ("what it shows", "cut at this mask’s area", "cut at the area it needs")
CUT_SIDE = 336


def write_report(
    path: str | Path,
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
    readouts: Sequence[Circuit] = (),
    alternatives: Sequence[Explanation] | None = None,
    curve: pd.DataFrame | None = None,
    circuits: Mapping[str, Circuit] | None = None,
    no_circuit: str = "",
    check: CircuitCheck | None = None,
    channels: ChannelFacts | None = None,
    made: Provenance | None = None,
) -> None:
    """Write the page of one explanation, whole or not at all.

    Args:
        path: The ``.html`` file.
        explanation: Shown as photograph, mask, what is kept and what is removed.
        circuit: Shown as a drawing that can be asked.
        table: From `compare`; its attributions are shown beside the mask.
        instances: From `explain_instances`, those after the first: each is of another object.
        readouts: From `read_circuit`, of the first object and of each further one; they can be
            looked at and compared with as ``circuits`` can.
        alternatives: From `explain_alternatives`; None where nobody looked.
        curve: From `match_curve`: what keeping more of the computation costs.
        circuits: Further circuits of the class by title, to look at or to compare with.
        no_circuit: Why no circuit was discovered, in a sentence, where ``circuit`` is a readout
            in its place.
        check: From `verify_circuit` with ablation of nodes by zero; without it the page says that
            the circuit was not tested.
        channels: From `channel_facts`: what each channel of the circuits does.
        made: From `provenance`: what it was made with.

    Raises:
        FileFormatError: The file cannot be written, or the table lacks a column.
        OptionError: The circuits are of several classifiers, or there is not one readout for
            each object.
    """
    page = report_html(
        explanation,
        circuit,
        table,
        instances=instances,
        readouts=readouts,
        alternatives=alternatives,
        curve=curve,
        circuits=circuits,
        no_circuit=no_circuit,
        check=check,
        channels=channels,
        made=made,
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_html(
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
    readouts: Sequence[Circuit] = (),
    alternatives: Sequence[Explanation] | None = None,
    curve: pd.DataFrame | None = None,
    circuits: Mapping[str, Circuit] | None = None,
    no_circuit: str = "",
    check: CircuitCheck | None = None,
    channels: ChannelFacts | None = None,
    made: Provenance | None = None,
) -> str:
    """The page of one explanation as text; see `write_report`."""
    objects = [explanation, *instances]
    if readouts and len(readouts) != len(objects):
        raise OptionError(
            f"there are {len(objects)} objects, and readouts of {len(readouts)}: give one of each"
        )
    rows = method_rows(table)
    command = "" if made is None else made.command
    tested = circuit_trials(
        check,
        explanation,
        circuit.graph.graph["wiring"],
        no_circuit=no_circuit,
        command=command,
    )
    masked = mask_trials(
        explanation, rows, alternatives=alternatives, curve=curve is not None, command=command
    )
    own = {readout_title(n): each for n, each in enumerate(readouts[1:], start=2)}
    every = {circuit_title(circuit): circuit, **(circuits or {}), **own}
    figures = {}
    if check is not None:
        figures["curves"] = faithfulness_figure(check)
    if curve is not None:
        figures["match-curve"] = match_figure(curve)
    data = _circuits(every, channels)
    data["figures"] = {name: json.loads(each.to_json()) for name, each in figures.items()}
    return _page(
        "report.html",
        data,
        plotly=bool(figures),
        title=f"{explanation.label_name} · expcam",
        explanation=explanation,
        views=first_screen(
            objects, alternatives or (), circuit_fact(circuit, tested), readouts, list(every)
        ),
        circuit=circuit,
        rule=RULE,
        marks=MARKS,
        trust=[("The mask", masked), ("The circuit", tested)],
        taps=list(explanation.match.pooled),
        matches=match_rows(explanation),
        no_circuit=no_circuit,
        common=in_common(readouts),
        selective=selectivity(circuit),
        necessary=None if channels is None else channels.necessary,
        tried=0 if channels is None else len(channels.effects),
        figures=list(figures),
        rows=rows,
        better=better(rows),
        backgrounds=len(EVALUATION),
        cuts=CUTS,
        attributions=[
            {"title": row.title, "pictures": _cuts(explanation, row)}
            for row in rows
            if not row.ours and row.attribution is not None
        ],
        made=made_with(explanation, circuit, made),
        command=command,
        references=REFERENCES,
        minimality=minimality(explanation),
        edge_meaning=edge_meaning(circuit.graph.graph["edges"]),
        version=version("expcam"),
    )


def circuit_html(circuit: Circuit) -> str:
    """A page of a circuit alone."""
    title = f"{circuit.graph.graph['label_name']} · expcam"
    data = _circuits({circuit_title(circuit): circuit}, None)
    size = circuit_size(circuit)
    return _page("notebook.html", data, title=title, circuit=circuit, size=size)


def _circuits(circuits: Mapping[str, Circuit], channels: ChannelFacts | None) -> dict[str, Any]:
    return {"format": FORMAT, **circuit_data(circuits, channels)}


def _cuts(explanation: Explanation, row: MethodRow) -> list[tuple[str, str]]:
    """A method's map, its best pixels of our area, and those that it needs; each with a note."""
    assert row.attribution is not None
    needed = [(row.area_robust, "all backgrounds"), (row.area_kept, "the mean colour alone")]
    known = [(area, where) for area, where in needed if not math.isnan(area)]
    heat = heatmap(explanation.photo, row.attribution)
    ours = outlined_at(explanation, row.attribution, explanation.area)
    cuts = [
        (data_uri(small(heat, CUT_SIDE)), BASELINES[row.method].note),
        (data_uri(small(ours, CUT_SIDE)), f"its best {share(explanation.area)} of the pixels"),
    ]
    if not known:
        return [*cuts, ("", "no share of the pixels that was tried keeps the label")]
    area, where = known[0]
    theirs = outlined_at(explanation, row.attribution, area)
    note = f"{share(area)} of the pixels keep the label on {where}"
    return [*cuts, (data_uri(small(theirs, CUT_SIDE)), note)]


def _page(template: str, data: Mapping[str, Any], *, plotly: bool = False, **values: Any) -> str:
    """A page with its scripts and its style inside, and a policy that allows nothing else."""
    environment = Environment(
        loader=PackageLoader("expcam.graphs"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = share
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    folder = files("expcam.graphs") / "templates"

    def text(name: str) -> Markup:
        return Markup((folder / name).read_text(encoding="utf-8"))

    own = Markup('"use strict";\n') + Markup("\n").join(map(text, SCRIPTS))
    scripts = [own, text(PLOTLY)] if plotly else [own]
    return environment.get_template(template).render(
        **values,
        data=data,
        style=text("page.css"),
        scripts=scripts,
        policy=_policy(scripts),
    )


def _policy(scripts: Sequence[str]) -> str:
    """What the page may load: its own scripts, known by their digest, and pictures inside it."""
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    known = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {known}; img-src data: blob:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
