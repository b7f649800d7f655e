"""How explanations and circuits show themselves in a notebook."""

from markupsafe import Markup

from expcam.circuits.circuit import Circuit
from expcam.explain.explanation import Explanation
from expcam.graphs.pictures import data_uri, kept_pixels, outlined, small
from expcam.graphs.report import circuit_html
from expcam.graphs.wording import verdict

SIDE = 224
"""Pixels of a picture's longer side."""
FRAME = Markup(
    '<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" title="{title}" '
    'style="width:100%;height:900px;border:0"></iframe>'
)
"""The page inside may run its own scripts, and cannot reach the notebook."""


def explanation_view(explanation: Explanation) -> str:
    """The photograph, the mask and what is left, with the verdict."""
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
    return Markup("<div>{}<p>{}</p></div>").format(shown, verdict(explanation))


def circuit_view(circuit: Circuit) -> str:
    """The drawing of the page, with its panel: a click on a channel tells what is known of it."""
    title = f"circuit of {circuit.graph.graph['label_name']}"
    return FRAME.format(page=circuit_html(circuit), title=title)
