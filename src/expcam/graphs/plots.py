"""Still pictures of an explanation and its circuit, by matplotlib: no browser needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.circuit import Circuit
from expcam.circuits.features import Crop
from expcam.circuits.formats import Node
from expcam.explain.explanation import Explanation
from expcam.files import written_whole
from expcam.graphs.figures import (
    CURVES,
    EXCITES,
    FAITHFULNESS_RANGE,
    INHIBITS,
    faithfulness_curves,
    own_point,
)
from expcam.graphs.layout import excerpt, lay_out
from expcam.graphs.methods import method_rows
from expcam.graphs.pictures import Picture, heatmap, kept_pixels, outlined
from expcam.graphs.wording import excerpt_title, share

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


def plot_mask(explanation: Explanation, *, ax: Axes | None = None) -> Figure:
    """The mask's outline on the photograph, the rest grey.

    Args:
        explanation: Its mask is drawn.
        ax: Where to draw, if in a figure of your own.
    """
    axes = ax or _figure(PANEL * 1.3, PANEL * 1.4).add_subplot()
    axes.imshow(outlined(explanation))
    axes.set_axis_off()
    title = f"{explanation.label_name}: {share(explanation.area)} of the pixels"
    axes.set_title(title, fontsize=9, parse_math=False)
    return _figure_of(axes)


def plot_comparison(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """What share of the pixels each method needs: on the mean colour, and on all backgrounds.

    A method that never keeps the label has no bar and a dash, one that could not run says why.

    Args:
        table: From `compare`.
        ax: Where to draw, if in a figure of your own.
    """
    rows = method_rows(table)
    axes = ax or _figure(6.0, 0.8 + 0.55 * len(rows)).add_subplot()
    for place, row in enumerate(rows):
        for offset, area, colour in (
            (-0.2, row.area_robust, "#0060a8"),
            (0.2, row.area_kept, "#9ec5e8"),
        ):
            if not math.isnan(area):
                axes.barh(place + offset, area, 0.36, color=colour)
            text = fill(row.reason, 60) if row.reason and offset < 0 else share(area)
            if not row.reason or offset < 0:
                left = 0 if math.isnan(area) else area
                axes.annotate(
                    text, (left, place + offset), xytext=(3, 0), textcoords="offset points",
                    va="center", fontsize=8, parse_math=False,
                )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(
        "pixels needed (dark: on all backgrounds; light: on the mean colour)", fontsize=8
    )
    _open(axes)
    return _figure_of(axes)


def plot_circuit(circuit: Circuit, *, ax: Axes | None = None) -> Figure:
    """The circuit as a still picture: each channel's strongest input, and more of the class's.

    Blue lines excite on this image, dashed orange ones inhibit. Of a large circuit the most
    relevant channels of each layer are drawn, and the title says so.

    Args:
        circuit: Any.
        ax: Where to draw, if in a figure of your own.
    """
    axes = ax or _figure(max(8.0, 0.55 * len(circuit.layers) + 2.5), 5.5).add_subplot()
    drawn = excerpt(circuit)
    _draw_circuit(axes, drawn)
    if drawn is not circuit:
        axes.set_title(excerpt_title(circuit, drawn), fontsize=9)
    return _figure_of(axes)


def plot_faithfulness(check: CircuitCheck, *, ax: Axes | None = None) -> Figure:
    """Faithfulness by zero ablation against the share of channels kept, beside the controls.

    Args:
        check: From `verify_circuit` with ablation of nodes by zero.
        ax: Where to draw, if in a figure of your own.
    """
    axes = ax or _figure(6.4, 3.6).add_subplot()
    axes.axhline(1, color="#9ca3af", linestyle=":", linewidth=1)
    for curve in faithfulness_curves(check):
        axes.errorbar(
            curve.sizes, curve.mean, yerr=curve.spread if curve.spread.any() else None,
            label=curve.name, color=curve.colour, linewidth=2.2 if curve.ours else 1.2,
            marker="o", markersize=3.5, elinewidth=0.8,
        )  # fmt: skip
    size, faithfulness = own_point(check)
    axes.plot(size, faithfulness, "*", markersize=13, color=CURVES[0], label="the circuit itself")
    axes.set_xscale("log")
    ticks = sorted(check.of("nodes", "zero")[0]["size"].unique())
    axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(*FAITHFULNESS_RANGE)
    axes.set_xlabel("share of each layer's channels kept", fontsize=9)
    axes.set_ylabel("faithfulness", fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _open(axes)
    return _figure_of(axes)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix, whole or not at all.

    Texts stay texts, in SVG and in PDF, and the same figure gives the same file.
    """
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    texts = rc_context({"svg.fonttype": "none", "svg.hashsalt": "expcam", "pdf.fonttype": 42})
    with written_whole(path) as temporary, texts:
        figure.savefig(temporary, dpi=150, metadata=dates.get(temporary.suffix))


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _open(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_circuit(axes: Axes, circuit: Circuit) -> None:
    layout = lay_out(circuit)
    drawn = layout.edges[layout.edges["tier"] == 0]
    for colour, style, edges in (
        (EXCITES, "solid", drawn[drawn["signed"] >= 0]),
        (INHIBITS, "dashed", drawn[drawn["signed"] < 0]),
    ):
        lines = [
            np.column_stack(layout.curve(source, target))
            for source, target in zip(edges["source"], edges["target"], strict=True)
        ]
        widths = (0.4 + 2.2 * edges["strength"]).tolist()
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=widths, linestyles=style, alpha=0.55)
        )
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
    axes.set_ylim(-1.1 * layout.height, 1.1 * layout.height)
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
