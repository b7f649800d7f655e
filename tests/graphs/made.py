"""A finding made by hand, whose figures can be checked: no classifier, no search.

Three channels of ``stem`` feed two of ``mid``, these two of ``late``, and these the class; one edge
passes over ``mid``. The image is 8×8 pixels, the mask its left half.
"""

from collections.abc import Sequence

import networkx as nx
import numpy as np
import pandas as pd

import expcam
from expcam.circuits.ablation.choices import CIRCUIT, RANDOM
from expcam.circuits.ablation.claims import COLUMNS
from expcam.circuits.ablation.verification import CircuitCheck
from expcam.circuits.channels import ChannelFacts
from expcam.circuits.features import Crop
from expcam.circuits.formats import Node
from expcam.explain.compare.compare import OURS
from expcam.explain.compare.curve import COLUMNS as CURVE_COLUMNS
from expcam.explain.match import GRADCAM, MOVED, Match

HOSTILE = "<img src=x onerror=document.title='hacked'>"
RELEVANCE = {
    ("stem", 0): 3.0,
    ("stem", 1): 2.0,
    ("stem", 2): 1.0,
    ("mid", 4): 2.0,
    ("mid", 5): 1.0,
    ("late", 7): 4.0,
    ("late", 8): 1.0,
    ("fc", 1): 5.0,
}
EDGES = [
    (("stem", 0), ("mid", 4), 3.0, 1.5),
    (("stem", 1), ("mid", 4), 1.0, -0.5),
    (("stem", 1), ("mid", 5), 2.0, 1.0),
    (("stem", 2), ("mid", 5), 2.0, -2.0),
    (("mid", 4), ("late", 7), 4.0, 2.0),
    (("mid", 5), ("late", 7), 1.0, -1.0),
    (("stem", 0), ("late", 7), 5.0, 2.5),
    (("mid", 5), ("late", 8), 2.0, 1.0),
    (("late", 7), ("fc", 1), 6.0, 3.0),
    (("late", 8), ("fc", 1), 2.0, -1.0),
]


def made_circuit(
    *, without: tuple[Node, ...] = (), label: str = "red", **facts: object
) -> expcam.Circuit:
    """The circuit, or what is left of it without some channels."""
    kept = [node for node in RELEVANCE if node not in without]
    layers = list(dict.fromkeys(layer for layer, _ in kept))
    graph: nx.DiGraph[Node] = nx.DiGraph(
        classifier="made", label=1, label_name=label, source="", contrast=None, coverage=0.9,
        top_k=16, nodes="relevance", edges="weight×activation", granularity="layers",
        wiring="exact",
    )  # fmt: skip
    graph.graph.update(facts)
    for layer, channel in kept:
        graph.add_node(
            (layer, channel), layer=layer, channel=channel, depth=layers.index(layer),
            activation=1.0 + channel, relevance=RELEVANCE[layer, channel],
            kind="class" if layer == "fc" else "channel",
        )  # fmt: skip
    for source, target, score, signed in EDGES:
        if source in graph and target in graph:
            graph.add_edge(source, target, score=score, signed=signed)
    return expcam.Circuit(graph)


def large_circuit() -> expcam.Circuit:
    """The circuit with 40 more channels of ``mid``, which feed ``late`` 8."""
    circuit = made_circuit(
        method="gates", reference="rest", size=0.27, wrong="cat", selectivity=1.4
    )
    for channel in range(100, 140):
        circuit.graph.add_node(
            ("mid", channel), layer="mid", channel=channel, depth=1, activation=1.0,
            relevance=channel / 1000, kind="channel",
        )  # fmt: skip
        circuit.graph.add_edge(("mid", channel), ("late", 8), score=channel / 100, signed=0.1)
    return circuit


def made_explanation(label: str = "red", source: str = "square.png") -> expcam.Explanation:
    """The left half of a picture is its explanation."""
    image = np.full((8, 8, 3), 90, np.uint8)
    image[2:6, 1:4] = (220, 30, 30)
    mask = np.zeros((8, 8), np.bool_)
    mask[:, :4] = True
    return expcam.Explanation(
        mask=mask, probability=mask.astype(np.float32), image=image,
        photo=image.repeat(8, 0).repeat(8, 1), input=np.zeros((3, 8, 8), np.float32),
        label=1, label_name=label, predicted=True, confidence=0.9, masked_confidence=0.8,
        area=0.5, kept=True, robustness=1.0, necessary=True, draws=32, draws_kept=32, bound=0.91,
        group=(), match=made_match(0.75), match_asked={},
        match_controls={MOVED: made_match(0.45), GRADCAM: made_match(0.6)},
        cell=4, seconds=1.0, cost=10.0, objective="robust", contrast=None, contrast_name="",
        classifier="made", recipe="constrained", seed=0, source=source,
    )  # fmt: skip


def made_match(last: float) -> Match:
    """So much of the last stage, four fifths of that place by place; 0.4 nats."""
    pooled = {"mid": 0.9, "late": last}
    return Match(
        spatial={tap: each * 0.8 for tap, each in pooled.items()}, pooled=pooled, divergence=0.4
    )


def made_facts() -> ChannelFacts:
    """Of all channels; without ``late`` 7 the label is lost. Logit 5 with nothing ablated."""
    nodes = [node for node in RELEVANCE if node[0] != "fc"]
    effects = pd.DataFrame(
        [(*node, 5 - RELEVANCE[node], node != ("late", 7), "red") for node in nodes],
        columns=["layer", "channel", "logit", "kept", "instead"],
    )
    effects.loc[~effects["kept"], "instead"] = "blue"
    ramp = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    maps = {node: ramp * (1 if node[1] % 2 else -1) for node in nodes}
    crop = Crop(
        image=3, activation=2.0, box=(0, 0, 4, 4), picture=np.full((8, 8, 3), 200, np.uint8),
        fires=np.ones((8, 8), np.float32),
    )  # fmt: skip
    return ChannelFacts(
        effects=effects, logit=5.0, photo=maps, explanation=maps, crops={("late", 7): [crop]}
    )


def made_table() -> pd.DataFrame:
    """Grad-CAM needs twice as much as the mask; another method could not run."""
    scores = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    nan = float("nan")
    rows = [
        (OURS, OURS, 0.25, 0.25, 1.0, scores, ""),
        ("gradcam", "Grad-CAM", 0.3, 0.5, 0.5, scores, ""),
        ("ig", "Integrated Gradients", nan, nan, nan, None, "no gradient"),
        ("disc", "Centred disc (control)", nan, nan, 0.1, scores, ""),
    ]
    columns = ["method", "title", "area_kept", "area_robust", "seconds", "attribution", "reason"]
    return pd.DataFrame(rows, columns=columns)


def made_curve() -> pd.DataFrame:
    """The mask as it is, and two that keep more; for the largest there is no Grad-CAM."""
    nan = float("nan")
    rows = [
        (nan, 0.75, 0.5, True, 1.0, True, 0.4, 0.45, 0.6),
        (0.8, 0.81, 0.6, True, 1.0, True, 0.3, 0.5, 0.65),
        (0.9, 0.85, 0.8, False, 0.5, True, 0.2, 0.7, nan),
    ]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def made_check(
    faithfulness: float = 0.9,
    *,
    kept: bool = True,
    random: float = 0.1,
    claims: Sequence[tuple[object, ...]] = (),
    untested: str = "",
) -> CircuitCheck:
    """A test by zero ablation of one image at two sizes, beside one control; no claims."""
    columns = {"image": 0, "parts": "nodes", "ablation": "zero", "draw": 0}
    figures = {"relevance": (faithfulness, 0.1, kept), RANDOM: (random, 1.0, False)}
    curves = [
        {**columns, "method": method, "size": size, "faithfulness": value, "completeness": left,
         "label_kept": held, "logit_ratio": value}
        for method, (value, left, held) in figures.items()
        for size in (0.1, 0.5)
    ]  # fmt: skip
    own = [
        {**row, "method": CIRCUIT if row["method"] == "relevance" else RANDOM, "size": 0.1}
        for row in curves[::2]
    ]
    return CircuitCheck(
        curves=pd.DataFrame(curves), circuit=pd.DataFrame(own),
        ours={"nodes": "relevance", "edges": "weight×activation"}, holds=True,
        claims=pd.DataFrame(claims, columns=list(COLUMNS)).astype(object),
        references=pd.DataFrame(), untested=untested,
    )  # fmt: skip
