"""What each channel of a circuit does: where it fires, and what the class is without it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.circuits.ablation.nodes import Nodes
from expcam.circuits.ablation.trials import Asked
from expcam.circuits.circuit import Circuit, check_classifier
from expcam.circuits.features import Crop, plane_of, top_crops_of
from expcam.circuits.formats import Node
from expcam.circuits.readout import shown
from expcam.circuits.trace.recording import record
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.explain.explanation import Explanation
from expcam.progress import Progress, silent

FINEST = 28
"""Maps have at most so many cells a side."""
CROPS = 4
CROPPED = 2
"""Of so many channels of each layer, the most relevant, crops are looked for."""

Map = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelFacts:
    """What is known of the channels of one or several circuits of an explanation.

    Attributes:
        effects: One row per channel: ``layer``, ``channel``, ``logit`` (of the class on the
            explanation, this channel alone set to zero), ``kept`` (whether the label then holds)
            and ``instead`` (the name of the first choice then).
        logit: Of the class on the explanation with nothing ablated.
        photo: By channel where it fires in the whole photograph, ``(h, w)``, the values of its
            layer; at most `FINEST` cells a side. Channels without a map are absent.
        explanation: The same in the explanation.
        crops: By channel what drives it most in other photographs.
    """

    effects: pd.DataFrame
    logit: float
    photo: Mapping[Node, Map]
    explanation: Mapping[Node, Map]
    crops: Mapping[Node, Sequence[Crop]] = field(default_factory=dict)

    @property
    def necessary(self) -> list[Node]:
        """The channels without which alone the label is lost."""
        lost = self.effects[~self.effects["kept"].astype(bool)]
        return list(zip(lost["layer"], lost["channel"].astype(int), strict=True))


def channel_facts(
    classifier: Classifier,
    circuits: Sequence[Circuit],
    explanation: Explanation,
    *,
    most: int | None = None,
    images: Sequence[ImageSource | Tensor] = (),
    progress: Progress = silent,
) -> ChannelFacts:
    """Look at every channel of some circuits of an explanation.

    It takes a forward pass for each channel, several of them together, and with ``images`` up to
    two passes for each and a backward pass for each crop.

    Args:
        classifier: It is left as it was found.
        circuits: Of this classifier and of the explanation's class.
        explanation: What the class and the channels' effects are looked at on.
        most: Only so many channels of each layer of a circuit, the most relevant. None for all.
        images: Photographs to take crops from, as for `explain_image`.
        progress: Called after each batch and each image.

    Raises:
        OptionError: A circuit or the explanation is of another classifier.
        ClassifierError: The readout cannot follow the classifier, or it is called inside
            ``torch.inference_mode()``.
    """
    require_autograd("channel_facts")
    for circuit in circuits:
        check_classifier("circuit", circuit.graph.graph.get("classifier"), classifier.name)
    nodes = relevant_channels(circuits, most)
    x, e = (shown(classifier, explanation, whole_image=whole) for whole in (True, False))
    with frozen(classifier.network) as module:
        subject = Nodes(classifier, module, e, explanation.label)
        asked = Asked.of(classifier, e, explanation)
        effects = _effects(classifier, subject, asked, nodes, explanation, progress)
        photo, explained = (_maps(module, each, nodes) for each in (x, e))
    few = [node for node in relevant_channels(circuits, CROPPED) if node in photo]
    crops = (
        top_crops_of(classifier, few, images, count=CROPS, progress=progress)
        if images and few
        else {}
    )
    return ChannelFacts(
        effects=effects,
        logit=float(subject.whole[explanation.label]),
        photo=photo,
        explanation=explained,
        crops=crops,
    )


def relevant_channels(circuits: Sequence[Circuit], most: int | None = None) -> list[Node]:
    """The ``most`` most relevant channels of each layer of each circuit, in order of execution."""
    found: dict[Node, int] = {}
    for circuit in circuits:
        table = circuit.nodes
        table = table[table["kind"] == "channel"].sort_values("relevance", ascending=False)
        rows = table if most is None else table.groupby("layer").head(most)
        for row in rows.itertuples():
            found.setdefault((str(row.layer), int(row.channel)), int(row.depth))
    return sorted(found, key=lambda node: (found[node], node))


def _effects(
    classifier: Classifier,
    subject: Nodes,
    asked: Asked,
    nodes: Sequence[Node],
    explanation: Explanation,
    progress: Progress,
) -> pd.DataFrame:
    columns = ["layer", "channel", "logit", "kept", "instead"]
    if not nodes:
        return pd.DataFrame(columns=columns)
    label, rival = explanation.label, explanation.contrast
    logits = subject.without_each(nodes, progress)
    kept = asked.says(logits).tolist()
    rows = []
    for (layer, channel), row, holds in zip(nodes, logits, kept, strict=True):
        others = row.clone()
        others[[label, *explanation.group]] = -torch.inf
        # With a contrast there are two classes to choose from.
        other = int(others.argmax()) if rival is None else rival
        instead = explanation.label_name if holds else classifier.label_name(other)
        rows.append((layer, channel, float(row[label]), holds, instead))
    return pd.DataFrame(rows, columns=columns)


@torch.no_grad()
def _maps(module: nn.Module, x: Tensor, nodes: Sequence[Node]) -> dict[Node, Map]:
    recording = record(module, x[None])
    maps = {}
    for node in nodes:
        plane = plane_of(recording, node)
        if plane is not None:
            if max(plane.shape) > FINEST:
                height, width = (min(side, FINEST) for side in plane.shape)
                plane = F.adaptive_avg_pool2d(plane[None], (height, width))[0]
            maps[node] = plane.float().cpu().numpy()
    return maps
