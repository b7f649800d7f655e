"""The circuit, its test, and what a match costs, as interactive plotly figures."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from expcam.circuits.ablation.choices import CIRCUIT
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.circuit import Circuit
from expcam.explain.match import GRADCAM, MOVED
from expcam.graphs.layout import RANKS, Layout, Points, excerpt, lay_out
from expcam.graphs.wording import MATCH_CONTROLS, excerpt_title

COLUMN_WIDTH = 62
HEIGHT = 620
EXCITES, INHIBITS = "#0060a8", "#b84a00"
"""Of Okabe and Ito's palette, darkened: told apart by everybody."""
CURVES = ("#be185d", "#2563eb", "#059669", "#d97706", "#7c3aed", "#0891b2", "#6b7280")
FAITHFULNESS_RANGE = (-0.6, 2.6)
"""A method that over-excites the class lies far above 1 and would flatten all others."""
TIER_NAMES = ("strongest input of each channel", *(f"{most} strongest" for most in RANKS[1:]))
WIDTHS = (0.15, 0.45, 0.75)
"""An edge is drawn one step thicker above each of these strengths."""


def circuit_figure(circuit: Circuit) -> go.Figure:
    """Draw a circuit: layers from left to right, hover for the figures.

    Of a large circuit the most relevant channels of each layer are drawn, and the title says so.

    A node's size is its share of its layer's relevance, its colour its activation relative to
    its layer's; an edge is blue where the source excites the target on this image and orange
    where it inhibits it, and thicker the higher its score is among those into the same layer.
    """
    drawn = excerpt(circuit)
    layout = lay_out(drawn)
    figure = go.Figure()
    tiers = []
    for tier in range(len(RANKS)):
        for trace in _edge_traces(layout, tier):
            figure.add_trace(trace)
            tiers.append(tier)
    figure.add_trace(_edge_labels(layout))
    figure.add_trace(_node_trace(drawn, layout))
    class_name = str(circuit.graph.graph["label_name"])
    x, y = layout.positions[circuit.class_node]
    figure.add_annotation(
        x=x, y=y, text=f"<b>{_plain(class_name)}</b>", showarrow=False, xanchor="left", xshift=16
    )
    figure.update_layout(
        width=max(760, COLUMN_WIDTH * len(layout.columns) + 300),
        height=HEIGHT,
        template="plotly_white",
        margin={"l": 20, "r": 220, "t": 60, "b": 120},
        showlegend=False,
        hovermode="closest",
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(layout.columns))),
            "ticktext": [_plain(name) for name in layout.columns],
            "tickangle": -60,
            "showgrid": False,
            "zeroline": False,
            "range": [-0.7, len(layout.columns) - 0.3],
        },
        yaxis={"visible": False, "range": [-1.1 * layout.height, 1.1 * layout.height]},
        updatemenus=[_tier_menu(tiers)],
    )
    if drawn is not circuit:
        figure.update_layout(title={"text": excerpt_title(circuit, drawn), "font": {"size": 13}})
    return figure


def faithfulness_figure(check: CircuitCheck) -> go.Figure:
    """Draw faithfulness against the share of channels kept, beside the controls."""
    figure = go.Figure()
    figure.add_hline(y=1, line={"color": "#9ca3af", "dash": "dot"})
    for curve in faithfulness_curves(check):
        spread = {"array": curve.spread, "visible": bool(curve.spread.any()), "thickness": 1}
        figure.add_trace(
            go.Scatter(
                x=curve.sizes,
                y=curve.mean,
                error_y=spread,
                mode="lines+markers",
                name=curve.name,
                line={"color": curve.colour, "width": 3 if curve.ours else 1.5},
            )
        )
    size, faithfulness = own_point(check)
    figure.add_trace(
        go.Scatter(
            x=size, y=faithfulness, mode="markers", name="the circuit itself",
            marker={"symbol": "star", "size": 15, "color": CURVES[0]},
        )
    )  # fmt: skip
    figure.update_layout(
        width=860,
        height=380,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis={"title": {"text": "share of each layer's channels kept"}, "type": "log",
               "tickvals": sorted(check.of("nodes", "zero")[0]["size"].unique()),
               "tickformat": ".0%"},
        yaxis={"title": {"text": "faithfulness"}, "range": list(FAITHFULNESS_RANGE)},
    )  # fmt: skip
    return figure


def match_figure(curve: pd.DataFrame) -> go.Figure:
    """Draw how much of the last stage's response masks keep against their area.

    A mask that does not keep the label on the mean colour is an open circle.

    Args:
        curve: From `match_curve`.
    """
    asked = ["nothing" if math.isnan(each) else f"at least {each:.0%}" for each in curve["asked"]]
    names = {"match": "the mask", **{name: MATCH_CONTROLS[name] for name in (MOVED, GRADCAM)}}
    figure = go.Figure()
    for (column, name), colour in zip(names.items(), (CURVES[0], *CURVES[-2:]), strict=True):
        ours = column == "match"
        shapes = ["circle" if kept or not ours else "circle-open" for kept in curve["kept"]]
        figure.add_trace(
            go.Scatter(
                x=curve["area"].tolist(),
                y=[None if math.isnan(each) else each for each in curve[column]],
                mode="lines+markers",
                name=name,
                text=asked,
                hovertemplate="%{y:.0%} at %{x:.0%} of the pixels; asked for: %{text}",
                line={"color": colour, "width": 3 if ours else 1.5},
                marker={"symbol": shapes, "size": 9 if ours else 6},
            )
        )
    figure.update_layout(
        width=720,
        height=340,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 10, "b": 50},
        legend={"orientation": "h", "y": -0.25},
        xaxis={
            "title": {"text": "share of the pixels"},
            "tickformat": ".0%",
            "rangemode": "tozero",
        },
        yaxis={"title": {"text": "of the last stage kept"}, "tickformat": ".0%"},
    )
    return figure


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How faithful what a method chooses is, over sizes."""

    name: str
    ours: bool
    colour: str
    sizes: Points
    mean: Points
    spread: Points


def faithfulness_curves(check: CircuitCheck) -> list[Curve]:
    """By zero ablation the curve of each method, that of the circuit's own score first."""
    curves, _ = check.of("nodes", "zero")
    ours = check.ours["nodes"]
    names = [ours, *(name for name in curves["method"].unique() if name != ours)]
    found = []
    for name, colour in zip(names, CURVES, strict=False):
        by_size = curves[curves["method"] == name].groupby("size")["faithfulness"]
        mean = by_size.mean()
        found.append(
            Curve(
                name=name + (" (this circuit's)" if name == ours else ""),
                ours=name == ours,
                colour=colour,
                sizes=mean.index.to_numpy(),
                mean=mean.to_numpy(),
                spread=by_size.std().fillna(0).to_numpy(),
            )
        )
    return found


def own_point(check: CircuitCheck) -> tuple[Points, Points]:
    """Sizes of the circuit itself and its faithfulness, one for each image."""
    _, own = check.of("nodes", "zero")
    rows = own[own["method"] == CIRCUIT]
    return rows["size"].to_numpy(), rows["faithfulness"].to_numpy()


def _edge_traces(layout: Layout, tier: int) -> list[go.Scatter]:
    """One trace per sign and thickness, so that a thousand edges stay quick to draw."""
    rows = layout.edges[layout.edges["tier"] == tier]
    bins = np.searchsorted(WIDTHS, rows["strength"])
    traces = []
    for colour, chosen in ((EXCITES, rows["signed"] >= 0), (INHIBITS, rows["signed"] < 0)):
        for thickness in range(len(WIDTHS) + 1):
            edges = rows[chosen & (bins == thickness)]
            if edges.empty:
                continue
            xs: list[float | None] = []
            ys: list[float | None] = []
            for source, target in zip(edges["source"], edges["target"], strict=True):
                curve = layout.curve(source, target)
                xs += [*curve[0].tolist(), None]
                ys += [*curve[1].tolist(), None]
            traces.append(
                go.Scatter(
                    x=xs,
                    y=ys,
                    mode="lines",
                    line={"color": colour, "width": 0.6 + 1.1 * thickness},
                    opacity=0.22 + 0.2 * thickness,
                    hoverinfo="skip",
                    visible=tier == 0,
                )
            )
    return traces


def _edge_labels(layout: Layout) -> go.Scatter:
    """Invisible points in the middle of the strongest edges, with their figures on hover."""
    rows = layout.edges[layout.edges["tier"] == 0]
    middles = [
        layout.curve(source, target)
        for source, target in zip(rows["source"], rows["target"], strict=True)
    ]
    text = [
        f"{_plain(a[0])} {a[1]} → {_plain(b[0])} {b[1]}"
        f"<br>score {score:.3g}<br>signed {signed:+.3g}"
        for a, b, score, signed in zip(
            rows["source"], rows["target"], rows["score"], rows["signed"], strict=True
        )
    ]
    return go.Scatter(
        x=[xs[len(xs) // 2] for xs, _ in middles],
        y=[ys[len(ys) // 2] for _, ys in middles],
        mode="markers",
        marker={"size": 9, "opacity": 0},
        hovertext=text,
        hoverinfo="text",
    )


def _node_trace(circuit: Circuit, layout: Layout) -> go.Scatter:
    nodes = circuit.nodes
    by_layer = nodes.groupby("layer")
    share = nodes["relevance"] / by_layer["relevance"].transform("max").replace(0, 1)
    colour = nodes["activation"] / by_layer["activation"].transform("max").replace(0, 1)
    keys = list(zip(nodes["layer"], nodes["channel"], strict=True))
    incoming = {key: circuit.graph.in_degree(key, weight="score") for key in keys}
    hover = [
        f"<b>{_plain(layer)}</b> channel {channel}<br>activation {activation:.3g}"
        f"<br>relevance {relevance:.3g}<br>summed score of inputs {incoming[layer, channel]:.3g}"
        for layer, channel, activation, relevance in zip(
            nodes["layer"], nodes["channel"], nodes["activation"], nodes["relevance"], strict=True
        )
    ]
    return go.Scatter(
        x=[layout.positions[key][0] for key in keys],
        y=[layout.positions[key][1] for key in keys],
        mode="markers",
        marker={
            "size": (7 + 11 * share).tolist(),
            "color": colour.tolist(),
            "colorscale": "Viridis",
            "reversescale": True,
            "cmin": 0,
            "cmax": 1,
            "line": {"color": "#1f2937", "width": 0.8},
            "colorbar": {
                "title": {"text": "activation<br>in its layer"},
                "len": 0.5,
                "thickness": 10,
                "x": 1.0,
                "xanchor": "left",
                "xpad": 120,
            },
        },
        hovertext=hover,
        hoverinfo="text",
        name="channels",
    )


def _tier_menu(tiers: list[int]) -> dict[str, object]:
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [*(tier <= shown for tier in tiers), True, True]}],
        }
        for shown, name in enumerate(TIER_NAMES)
    ]
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1.12,
        "yanchor": "bottom",
    }


def _plain(text: str) -> str:
    """Text that plotly shows as it is: it reads some HTML tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
