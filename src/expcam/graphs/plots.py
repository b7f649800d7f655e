"""Still pictures of an explanation and its circuit, by matplotlib: no browser needed."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from expcam.circuits.circuit import Circuit
from expcam.circuits.features import Crop
from expcam.circuits.formats import Node
from expcam.explain.explanation import Explanation
from expcam.files import written_whole
from expcam.graphs.figures import EXCITES, INHIBITS
from expcam.graphs.layout import lay_out
from expcam.graphs.methods import method_rows
from expcam.graphs.pictures import Picture, heatmap, kept_pixels, outlined
from expcam.graphs.wording import share

PANEL = 2.6
"""Inches."""


def plot_explanation(explanation: Explanation, table: pd.DataFrame | None = None) -> Figure:
    """A row of pictures: photograph, mask, explanation, and the table's attributions.

    A method that did not run has its reason in place of a picture.
    """
    pictures: list[tuple[str, Picture | str]] = [
        ("photograph", explanation.photo),
        (f"mask, {share(explanation.area)}", outlined(explanation)),
        ("explanation", kept_pixels(explanation)),
    ]
    if table is not None:
        pictures += [
            (row.title, row.reason)
            if row.attribution is None
            else (
                f"{row.title}, {share(row.area_kept)}",
                heatmap(explanation.photo, row.attribution),
            )
            for row in method_rows(table)
            if not row.ours
        ]
    return _gallery(pictures, columns=len(pictures))


def plot_activations(
    explanation: Explanation, maps: Sequence[tuple[Node, npt.NDArray[np.float32]]]
) -> Figure:
    """Where channels fire in an explanation's photograph, each with its `activation_map`."""
    return _gallery(
        [
            (f"{layer} : {channel}", heatmap(explanation.photo, fires))
            for (layer, channel), fires in maps
        ]
    )


def plot_crops(crops: Sequence[Crop]) -> Figure:
    """The crops that drive a channel most, from `top_crops`."""
    return _gallery([(f"image {c.image}: {c.activation:.3g}", c.picture) for c in crops])


def plot_circuit(circuit: Circuit) -> Figure:
    """The circuit as a still picture: each channel's strongest input, and more of the class's."""
    figure = _figure(max(8.0, 0.55 * len(circuit.layers) + 2.5), 5.5)
    _draw_circuit(figure.add_subplot(), circuit)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, by the suffix, whole or not at all."""
    with written_whole(path) as temporary:
        figure.savefig(
            temporary, dpi=150, metadata={"Date": None} if temporary.suffix == ".svg" else None
        )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_circuit(axes: Axes, circuit: Circuit) -> None:
    layout = lay_out(circuit)
    drawn = layout.edges[layout.edges["tier"] == 0]
    for colour, edges in (
        (EXCITES, drawn[drawn["signed"] >= 0]),
        (INHIBITS, drawn[drawn["signed"] < 0]),
    ):
        lines = [
            (layout.positions[source], layout.positions[target])
            for source, target in zip(edges["source"], edges["target"], strict=True)
        ]
        widths = (0.4 + 2.2 * edges["strength"]).tolist()
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=widths, alpha=0.5))
    nodes = circuit.nodes
    keys = list(zip(nodes["layer"], nodes["channel"], strict=True))
    sizes = nodes["relevance"] / nodes.groupby("layer")["relevance"].transform("max").replace(0, 1)
    axes.scatter(
        [layout.positions[key][0] for key in keys],
        [layout.positions[key][1] for key in keys],
        s=(12 + 60 * sizes).tolist(),
        color="#0f766e",
        edgecolors="white",
        linewidths=0.6,
        zorder=2,
    )
    x, y = layout.positions[circuit.class_node]
    axes.annotate(
        str(circuit.graph.graph["label_name"]),
        (x, y),
        xytext=(9, 0),
        textcoords="offset points",
        va="center",
        fontweight="bold",
        parse_math=False,
    )
    axes.set_xticks(range(len(layout.columns)), layout.columns, rotation=60, ha="right", fontsize=7)
    axes.set_yticks([])
    axes.set_xlim(-0.6, len(layout.columns) + 1.2)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _gallery(pictures: Sequence[tuple[str, Picture | str]], *, columns: int = 4) -> Figure:
    """Pictures with their titles, row by row; a text where there is no picture."""
    columns = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    figure = _figure(PANEL * columns, PANEL * 1.15 * rows)
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in places:
        axes.set_axis_off()
    for axes, (title, picture) in zip(places, pictures, strict=False):
        if isinstance(picture, str):
            axes.text(0.5, 0.5, fill(picture, 28), ha="center", va="center", parse_math=False)
        else:
            axes.imshow(picture)
        axes.set_title(title, fontsize=9, parse_math=False)
    return figure
