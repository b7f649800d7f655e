"""The page: one HTML file that needs no network."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.circuit import Circuit
from expcam.circuits.formats import Node
from expcam.explain.compare.attributions import BASELINES
from expcam.explain.explanation import Explanation
from expcam.explain.objectives import EVALUATION
from expcam.files import written_whole
from expcam.graphs.figures import circuit_figure, faithfulness_figure
from expcam.graphs.methods import method_rows
from expcam.graphs.pictures import data_uri, heatmap, kept_pixels, outlined, removed_pixels
from expcam.graphs.wording import (
    circuit_verdict,
    edge_meaning,
    holding,
    minimality,
    share,
    verdict,
)

_PLOTLY_CONFIG = {"displaylogo": False, "responsive": False, "modeBarButtonsToRemove": ["lasso2d"]}


def write_report(
    path: str | Path,
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
    check: CircuitCheck | None = None,
    necessary: Sequence[Node] | None = None,
    maps: Sequence[tuple[Node, npt.NDArray[np.float32]]] = (),
) -> None:
    """Write the page of one explanation, whole or not at all.

    Args:
        path: The ``.html`` file.
        explanation: Shown as photograph, mask, what is kept and what is removed.
        circuit: Shown as an interactive graph.
        table: From `compare`; its attributions are shown beside the mask.
        instances: Further explanations of the class, each of another object.
        check: From `verify_circuit` with ablation of nodes by zero; without it the page says that
            the circuit was not tested.
        necessary: From `necessary_channels`.
        maps: Channels, and where each fires in the photograph (see `activation_maps`).

    Raises:
        FileFormatError: The file cannot be written, or the table lacks a column.
    """
    page = report_html(
        explanation,
        circuit,
        table,
        instances=instances,
        check=check,
        necessary=necessary,
        maps=maps,
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_html(
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
    check: CircuitCheck | None = None,
    necessary: Sequence[Node] | None = None,
    maps: Sequence[tuple[Node, npt.NDArray[np.float32]]] = (),
) -> str:
    """The page of one explanation as text; see `write_report`."""
    rows = method_rows(table)
    environment = Environment(
        loader=PackageLoader("expcam.graphs"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = share
    figure = _html(circuit_figure(circuit), "circuit-figure")
    curves = None if check is None else _html(faithfulness_figure(check), "curves-figure")
    pictures = [
        ("Photograph", "as the classifier sees its field of view", explanation.photo),
        ("Mask", f"{share(explanation.area)} of the pixels", outlined(explanation)),
        ("Explanation", "only the mask's pixels, on the mean colour", kept_pixels(explanation)),
        ("Without the mask", "the rest of the photograph", removed_pixels(explanation)),
    ]
    attributions = [
        (row.title, BASELINES[row.method].note, heatmap(explanation.photo, row.attribution))
        for row in rows
        if not row.ours and row.attribution is not None
    ]
    return environment.get_template("report.html").render(
        explanation=explanation,
        verdict=verdict(explanation),
        holding=holding(explanation),
        backgrounds=len(EVALUATION),
        minimality=minimality(explanation),
        pictures=[(title, note, data_uri(picture)) for title, note, picture in pictures],
        attributions=[(title, note, data_uri(picture)) for title, note, picture in attributions],
        instances=[(each, data_uri(outlined(each))) for each in instances],
        rows=rows,
        circuit=circuit,
        figure=figure,
        curves=curves,
        circuit_verdict=None if check is None else circuit_verdict(check),
        necessary=necessary,
        edge_meaning=edge_meaning(circuit.graph.graph["edges"]),
        maps=[
            (
                layer,
                channel,
                circuit.graph.nodes.get((layer, channel), {}).get("relevance", float("nan")),
                data_uri(heatmap(explanation.photo, fires)),
            )
            for (layer, channel), fires in maps
        ],
        plotly_js=Markup(get_plotlyjs()),
        version=version("expcam"),
    )


def _html(figure: go.Figure, name: str) -> Markup:
    """A figure as plotly's HTML, which is not escaped again: its texts are escaped already."""
    text = plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, config=_PLOTLY_CONFIG, div_id=name
    )
    return Markup(text)
