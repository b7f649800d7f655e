"""The circuit that carries a decision: found under ablation, and tried where it could fail."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expcam.circuits.ablation.gates import Gates
from expcam.circuits.ablation.inputs import check_sizes, input_of, photographs, subject_of
from expcam.circuits.ablation.references import kinds_of
from expcam.circuits.ablation.trials import Asked, Trials
from expcam.circuits.circuit import Circuit, check_classifier
from expcam.circuits.discovery.edges import MOST_EDGES, fewest_edges
from expcam.circuits.discovery.methods import METHOD, METHODS, Task
from expcam.circuits.readout import read_channels
from expcam.classifier.frozen import frozen, require_autograd
from expcam.classifier.images import ImageSource
from expcam.classifier.model import Classifier
from expcam.classifier.precision import computes_in_bfloat16, flushed_denormals
from expcam.errors import CircuitError, OptionError
from expcam.explain.explanation import Explanation
from expcam.explain.request import SEEDS
from expcam.progress import Progress, silent

PARTS = ("channels", "edges")
WRONG_PLACES = (1, 20)
"""Places, in the order of the whole model's logits, of the classes that the procedure is asked for
as a control: the second choice, and one that the model thinks little of."""


def discover_circuit(
    classifier: Classifier,
    explanation: Explanation | Sequence[Explanation],
    *,
    whole_image: bool = False,
    reference: Sequence[ImageSource | Tensor] | None = None,
    method: str = METHOD,
    parts: Sequence[str] = PARTS,
    seed: int = 0,
    controls: bool = True,
    progress: Progress = silent,
) -> Circuit:
    """Find the channels that carry a decision, and the edges among them.

    A set of channels is looked for that keeps the decision while all others are replaced by a
    reference, and also while a random half of the others is left as it is; that does not say the
    class of inputs without the evidence; and without which the decision is lost. The procedure is
    the same for any class: as a control it is asked for classes that the whole model does not
    say, and the circuit keeps what came of it (see `verify_circuit`).

    Args:
        classifier: The classifier that was explained; it is left as it was found.
        explanation: Of one image, or of several of one class for a circuit that they share.
        whole_image: Look for the circuit of the whole images, on crops of them, instead of that
            of the masks' pixels on random backgrounds.
        reference: Photographs of other things. Channels are then replaced by their mean, too, and
            the circuit must not say the class of them. Without any the image itself is the
            reference: its patches in another order, the mask's pixels replaced.
        method: How the channels are chosen, a key of `METHODS`.
        parts: ``channels``, or ``channels`` and ``edges``: with the latter only as many edges stay
            as the decision needs, the best by ``‖W‖₁ · A``.
        seed: From 0 below 2³¹.
        controls: Whether the procedure is asked for other classes as well; it takes two to three
            times as long.
        progress: Called after each step.

    Returns:
        The circuit. Its graph's attributes say how it was found: ``method``, ``reference`` (kinds
        of references), ``size`` (share of all channels), ``passes``, ``whole_image``, ``seed``,
        ``images``; with controls ``wrong`` (names of the other classes) and ``selectivity`` (by
        how many times more channels they need; at least that where none are enough).

    Raises:
        CircuitError: No small set of channels passes, or the whole model does not hold its label,
            or says it without the evidence; the message says so in one sentence.
        OptionError: An option that cannot be, or an explanation of another classifier.
        ClassifierError: The classifier's channels cannot be told apart, or it is called inside
            ``torch.inference_mode()``.
    """
    require_autograd("discover_circuit")
    explanations = [explanation] if isinstance(explanation, Explanation) else list(explanation)
    _check(classifier, explanations, method, parts, seed)
    first = explanations[0]
    with frozen(classifier.network) as module, flushed_denormals(), torch.enable_grad():
        x = input_of(classifier, first)
        photos = photographs(classifier, reference or (), x)
        gates = Gates(module, x)
        asked = Asked.of(classifier, x, first)
        kinds = kinds_of(photos)
        rng = torch.Generator().manual_seed(seed)
        subjects = [subject_of(classifier, each, whole_image=whole_image) for each in explanations]
        check_sizes("explanation", [each.x for each in subjects], x.shape)
        trials = Trials.of(gates, asked, subjects, photos, kinds, rng)
        task = Task(
            trials=trials,
            kinds=kinds,
            mixed=computes_in_bfloat16(classifier.device),
            rng=rng,
            progress=progress,
        )
        (keep,), passes = found([task], method)
        if keep is None:
            raise CircuitError(
                f"no small set of channels carries the decision “{first.label_name}”: by "
                f"`{method}`, none passed the trials of ablation against {' and '.join(kinds)}"
            )
        facts: dict[str, Any] = {
            "method": method,
            "reference": ", ".join(kinds),
            "whole_image": whole_image,
            "images": len(explanations),
            "seed": seed,
            "size": float(keep.float().mean()),
            "passes": passes,
        }
        if controls:
            facts |= _wrong_classes(classifier, task, method, x, first, facts["size"])
        circuit = read_channels(
            classifier,
            first,
            gates.split(keep),
            facts,
            whole_image=whole_image,
            strongest=MOST_EDGES,
        )
        if "edges" in parts:
            return fewest_edges(classifier, circuit, trials, subjects, rng, progress)
    return circuit


def found(tasks: Sequence[Task], method: str) -> tuple[list[Tensor | None], float]:
    """The channels that a method finds, and the forward and backward passes that it took.

    A pass with gradients counts as one, one without as a third.
    """
    gates = tasks[0].trials.gates
    before = gates.passes
    keeps = METHODS[method](tasks)
    return keeps, gates.passes - before


def _wrong_classes(
    classifier: Classifier,
    task: Task,
    method: str,
    x: Tensor,
    explanation: Explanation,
    size: float,
) -> dict[str, Any]:
    """What the same procedure finds for classes that the whole model does not say."""
    order = task.trials.asked.whole(x[None])[0].argsort(descending=True).tolist()
    own = {explanation.label, *explanation.group}
    order = [label for label in order if label not in own]
    shown = task.trials.asked.whole(torch.stack(list(task.trials.contrast)))
    asked = (Asked(classifier, x, label) for label in order)
    # A class that the model says of all contrast inputs cannot be told from them.
    possible = [each for each in asked if not bool((each.margins(shown) > 0).all())]
    if not possible:
        return {}
    wrong = dict.fromkeys(possible[min(place, len(possible)) - 1] for place in WRONG_PLACES)
    keeps, _ = found([replace(task, trials=task.trials.asking(each)) for each in wrong], method)
    needed = [1.0 if keep is None else float(keep.float().mean()) for keep in keeps]
    return {
        "wrong": ", ".join(classifier.label_name(each.label) for each in wrong),
        "wrong_sizes": ", ".join(f"{share:.3f}" for share in needed),
        "selectivity": min(needed) / size,
    }


def _check(
    classifier: Classifier,
    explanations: Sequence[Explanation],
    method: str,
    parts: Sequence[str],
    seed: int,
) -> None:
    if method not in METHODS:
        raise OptionError(f"unknown method `{method}`; there are: {', '.join(METHODS)}")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or "channels" not in parts:
        raise OptionError(f"parts are `channels`, or `channels` and `edges`, not {list(parts)}")
    if not 0 <= seed < SEEDS:
        raise OptionError(f"seed {seed} is out of range: from 0 below 2³¹")
    if not explanations:
        raise OptionError("no explanation given")
    if classifier.compares:
        raise OptionError(
            "a circuit is of one class: give the classifier itself, not one `between` two classes"
        )
    for each in explanations:
        check_classifier("explanation", each.classifier, classifier.name)
    labels = {each.label_name for each in explanations}
    if len(labels) > 1:
        raise OptionError(f"explanations are of one class, not of {', '.join(sorted(labels))}")
