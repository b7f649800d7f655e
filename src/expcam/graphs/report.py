"""The page: one HTML file that needs no network."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from expcam.circuits.circuit import Circuit
from expcam.errors import FileFormatError
from expcam.explain.baselines import BASELINES
from expcam.explain.compare import COLUMNS, OURS
from expcam.explain.explanation import Explanation
from expcam.files import written_whole
from expcam.graphs.figures import circuit_figure
from expcam.graphs.pictures import data_uri, heatmap, kept_pixels, outlined, removed_pixels
from expcam.graphs.wording import minimality, share, verdict

_PLOTLY_CONFIG = {"displaylogo": False, "responsive": False, "modeBarButtonsToRemove": ["lasso2d"]}


def write_report(
    path: str | Path,
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
) -> None:
    """Write the page of one explanation, whole or not at all.

    Args:
        path: The ``.html`` file.
        explanation: Shown as photograph, mask, what is kept and what is removed.
        circuit: Shown as an interactive graph.
        table: From `compare`; its attributions are shown beside the mask.
        instances: Further explanations of the class, each of another object.

    Raises:
        FileFormatError: The file cannot be written, or the table lacks a column.
    """
    page = report_html(explanation, circuit, table, instances=instances)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_html(
    explanation: Explanation,
    circuit: Circuit,
    table: pd.DataFrame,
    *,
    instances: Sequence[Explanation] = (),
) -> str:
    """The page of one explanation as text; see `write_report`."""
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise FileFormatError(f"the table has no column `{missing[0]}`; make it with compare()")
    environment = Environment(
        loader=PackageLoader("expcam.graphs"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["share"] = share
    figure = plotly.io.to_html(
        circuit_figure(circuit),
        full_html=False,
        include_plotlyjs=False,
        config=_PLOTLY_CONFIG,
        div_id="circuit-figure",
    )
    pictures = [
        ("Photograph", "as the classifier sees its field of view", explanation.photo),
        ("Mask", f"{share(explanation.area)} of the pixels", outlined(explanation)),
        ("Explanation", "only the mask's pixels, on the mean colour", kept_pixels(explanation)),
        ("Without the mask", "the rest of the photograph", removed_pixels(explanation)),
    ]
    maps = [
        (row.title, BASELINES[row.method].note, heatmap(explanation.photo, row.attribution))
        for row in table.itertuples()
        if row.method != OURS
    ]
    return environment.get_template("report.html").render(
        explanation=explanation,
        verdict=verdict(explanation),
        minimality=minimality(explanation),
        pictures=[(title, note, data_uri(picture)) for title, note, picture in pictures],
        maps=[(title, note, data_uri(picture)) for title, note, picture in maps],
        instances=[(each, data_uri(outlined(each))) for each in instances],
        rows=table.drop(columns="attribution").to_dict("records"),
        ours=OURS,
        circuit=circuit,
        # The figure and the script come from plotly and hold our own escaped texts only.
        figure=Markup(figure),
        plotly_js=Markup(get_plotlyjs()),
        version=version("expcam"),
    )
