"""All that is known of one image, and how it is found.

Importing this module is cheap: torch is loaded when there is something to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expcam.explain.request import Request
from expcam.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from expcam.circuits.ablation.verification import CircuitCheck
    from expcam.circuits.circuit import Circuit
    from expcam.circuits.formats import Node
    from expcam.classifier.model import Classifier, Prepared
    from expcam.explain.explanation import Explanation


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All that is known of one image: what the page, the files and the printed lines say.

    Attributes:
        explanation: The mask.
        circuit: Read on it.
        table: From `compare`.
        instances: Masks of further objects.
        check: From `verify_circuit`, where the circuit was tested.
        necessary: Channels whose ablation alone loses the label; None where that was not tried.
        maps: Channels, and where each fires in the photograph.
    """

    explanation: Explanation
    circuit: Circuit
    table: pd.DataFrame
    instances: Sequence[Explanation] = ()
    check: CircuitCheck | None = None
    necessary: Sequence[Node] | None = None
    maps: Sequence[tuple[Node, npt.NDArray[np.float32]]] = ()


@dataclass(frozen=True, kw_only=True)
class CircuitRequest:
    """Which circuit is wanted; the fields are arguments of `read_circuit`."""

    top_k: int
    nodes: str
    edges: str
    granularity: str


def check_requests(circuit: CircuitRequest, methods: Sequence[str]) -> None:
    """Find what is wrong with the options before any work is done.

    Raises:
        OptionError: An option has a value that it cannot have.
    """
    from expcam.circuits.readout import check_selection
    from expcam.circuits.scores import COVERAGE
    from expcam.explain.compare.compare import check_methods

    check_selection(COVERAGE, circuit.top_k, circuit.nodes, circuit.edges, circuit.granularity)
    check_methods(methods)


def find(
    classifier: Classifier,
    image: Prepared,
    mask: Request,
    circuit: CircuitRequest,
    methods: Sequence[str],
    *,
    instances: bool = False,
    verify: bool = True,
    progress: Progress = silent,
) -> Finding:
    """Explain an image, read the circuit, and measure both beside other methods.

    Args:
        classifier: The classifier; it is left as it was found.
        image: From `Classifier.prepare`.
        mask: What is asked of the mask.
        circuit: What is asked of the circuit.
        methods: Keys of `BASELINES`.
        instances: Whether to look for further objects of the class.
        verify: Whether to test the circuit by ablation.
        progress: Called after each step.

    Raises:
        ExpcamError: See the texts of its kinds.
    """
    from expcam.circuits.readout import read_circuit
    from expcam.classifier.precision import flushed_denormals
    from expcam.explain.api import explain_image
    from expcam.explain.compare.compare import compare
    from expcam.explain.instances import explain_instances

    others: list[Explanation] = []
    if instances:
        first, *others = explain_instances(
            classifier,
            image,
            target=mask.target,
            recipe=mask.recipe,
            seed=mask.seed,
            progress=progress,
        )
    else:
        first = explain_image(classifier, image, **vars(mask), progress=progress)
    with flushed_denormals():
        found = read_circuit(classifier, first, **vars(circuit))
        table = compare(classifier, first, methods, progress=progress)
        tested = _tested(classifier, first, found, progress) if verify else {}
    return Finding(explanation=first, circuit=found, table=table, instances=others, **tested)


def _tested(
    classifier: Classifier, explanation: Explanation, circuit: Circuit, progress: Progress
) -> dict[str, Any]:
    """The fields of a `Finding` that say whether the circuit is what carried the decision."""
    import torch

    from expcam.circuits.ablation.verification import necessary_channels, verify_circuit
    from expcam.circuits.features import circuit_maps

    if circuit.graph.graph["wiring"] != "exact":
        return {}
    return {
        "check": verify_circuit(classifier, circuit, [explanation], progress=progress),
        "necessary": necessary_channels(classifier, circuit, explanation),
        "maps": circuit_maps(classifier, torch.from_numpy(explanation.input), circuit),
    }
