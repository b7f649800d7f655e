"""Double dissociation: whose decision is lost without whose circuit."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.inputs import input_of, photographs, subject_of
from expcam.circuits.ablation.references import kinds_of
from expcam.circuits.ablation.trials import REMOVAL, Asked, Trials
from expcam.circuits.circuit import Circuit, check_classifier
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.errors import OptionError
from expcam.explain.explanation import Explanation
from expcam.explain.request import SEEDS
from expcam.progress import Progress, silent

COUNT = 12
"""Trials behind each figure."""


def dissociate(
    classifier: Classifier,
    circuits: Sequence[Circuit],
    explanations: Sequence[Explanation],
    *,
    reference: Sequence[ImageSource | Tensor] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """How often each decision is kept without each circuit.

    Where circuits are specific, the diagonal is 0 and all else is 1. Circuits are removed as they
    are: of very different sizes the matrix says little.

    Args:
        classifier: The classifier; it is left as it was found.
        circuits: One of each explanation, in the same order.
        explanations: Of several photographs.
        reference: Photographs for the references, beside the images themselves.
        seed: For the trials.
        progress: Called after each explanation.

    Returns:
        A row for each explanation and a column for each circuit, by the names of their classes:
        the share of trials in which the class is said without the circuit.

    Raises:
        OptionError: Not as many circuits as explanations, or one of another classifier.
    """
    require_autograd("dissociate")
    if len(circuits) != len(explanations) or len(circuits) < 2:
        raise OptionError(
            f"dissociate takes two or more circuits, one of each explanation, not "
            f"{len(circuits)} of {len(explanations)}"
        )
    for circuit in circuits:
        check_classifier("circuit", circuit.graph.graph.get("classifier"), classifier.name)
    rng = torch.Generator().manual_seed(SEEDS + seed)
    rows = []
    with frozen(classifier.network) as module:
        photos = photographs(classifier, reference, input_of(classifier, explanations[0]))
        kinds = kinds_of(photos)
        for place, explanation in enumerate(explanations):
            check_classifier("explanation", explanation.classifier, classifier.name)
            whole = bool(circuits[place].graph.graph.get("whole_image", False))
            subject = subject_of(classifier, explanation, whole_image=whole)
            gates = Gates(module, subject.x)
            asked = Asked.of(classifier, subject.x, explanation)
            trials = Trials.of(gates, asked, [subject], photos, kinds, rng)
            drawn = trials.several(REMOVAL, kinds, COUNT, rng)
            removed = [trials.channels_of(each) for each in circuits]
            rows.append([float(trials.says(keep, drawn).float().mean()) for keep in removed])
            progress("dissociation", place + 1, len(explanations))
    names = [each.label_name for each in explanations]
    return pd.DataFrame(rows, index=names, columns=names)
