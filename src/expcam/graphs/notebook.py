"""How explanations and circuits show themselves in a notebook."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from expcam.circuits.circuit import Circuit
from expcam.explain.explanation import Explanation
from expcam.graphs.pictures import data_uri, kept_pixels, outlined, small
from expcam.graphs.report import circuit_html, report_html
from expcam.graphs.wording import matching, verdict

SIDE = 224
"""Pixels of a picture's longer side."""
FRAME = Markup(
    '<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" title="{title}" '
    'style="width:100%;height:900px;border:0"></iframe>'
)
"""The page inside may run its own scripts, and cannot reach the notebook."""


def explanation_view(explanation: Explanation) -> str:
    """The photograph, the mask and what is left, with the verdict, and what it keeps."""
    pictures = [
        ("photograph", explanation.photo),
        ("mask", outlined(explanation)),
        ("explanation", kept_pixels(explanation)),
    ]
    shown = Markup("").join(
        Markup('<img src="{}" alt="{}" title="{}" style="margin-right:8px">').format(
            data_uri(small(picture, SIDE)), name, name
        )
        for name, picture in pictures
    )
    kept = matching(explanation)
    texts = [verdict(explanation), *([f"It {kept}."] if kept else [])]
    said = Markup("").join(Markup("<p>{}</p>").format(text) for text in texts)
    return Markup("<div>{}{}</div>").format(shown, said)


def circuit_view(circuit: Circuit) -> str:
    """The drawing of the page, with its panel: a click on a channel tells what is known of it."""
    title = f"circuit of {circuit.graph.graph['label_name']}"
    return FRAME.format(page=circuit_html(circuit), title=title)


@dataclass(frozen=True)
class ShownReport:
    """The page of an explanation, which a notebook shows in a frame of its own."""

    html: str
    title: str

    def _repr_html_(self) -> str:
        return FRAME.format(page=self.html, title=self.title)


def show_report(
    explanation: Explanation, circuit: Circuit, table: pd.DataFrame, **beside: Any
) -> ShownReport:
    """Show in a notebook the page that `write_report` writes.

    Args:
        explanation: See `write_report`.
        circuit: See there.
        table: See there.
        **beside: What else it takes, by name.

    Raises:
        FileFormatError: The table lacks a column.
        OptionError: See `write_report`.
    """
    html = report_html(explanation, circuit, table, **beside)
    return ShownReport(html, f"explanation of {explanation.label_name}")
