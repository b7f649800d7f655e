"""All that is known of one image, and how it is found.

Importing this module is cheap: torch is loaded when there is something to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from expcam.errors import CircuitError, OptionError
from expcam.explain.request import Request
from expcam.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from expcam.circuits.ablation.verification import CircuitCheck
    from expcam.circuits.channels import ChannelFacts
    from expcam.circuits.circuit import Circuit
    from expcam.circuits.formats import Node
    from expcam.classifier.images import ImageSource
    from expcam.classifier.model import Classifier, Prepared
    from expcam.explain.explanation import Explanation
    from expcam.explain.instances import Box
    from expcam.graphs.page.provenance import Provenance

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp")
DISCOVERED, READOUT = CIRCUITS = ("discovered", "readout")
"""Which circuit is shown first: the one that is found under ablation, or the published readout."""
LOOKED_AT = 8
"""So many channels of each layer, the most relevant, are looked at one by one."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All that is known of one image: what the page, the files and the printed lines say.

    Attributes:
        explanation: The mask.
        circuit: The one that is shown first.
        table: From `compare`.
        instances: Masks of further objects.
        readouts: The published readout of each object, where there are several.
        alternatives: Masks of other pixels that do what the first does; None where nobody looked.
        curve: From `match_curve`: what keeping the activations costs in pixels.
        readout: The published readout beside it, where the circuit was discovered.
        no_circuit: Why none was discovered, in a sentence, where one was asked for; the circuit
            is then the readout, a hypothesis.
        whole: The readout of the whole photograph, background and all.
        check: From `verify_circuit`, where the circuit was tested.
        channels: From `channel_facts`: what the most relevant channels of the circuits do.
        made: What it was made with.
    """

    explanation: Explanation
    circuit: Circuit
    table: pd.DataFrame
    instances: Sequence[Explanation] = ()
    readouts: Sequence[Circuit] = ()
    alternatives: Sequence[Explanation] | None = None
    curve: pd.DataFrame | None = None
    readout: Circuit | None = None
    no_circuit: str = ""
    whole: Circuit | None = None
    check: CircuitCheck | None = None
    channels: ChannelFacts | None = None
    made: Provenance | None = None

    @property
    def necessary(self) -> Sequence[Node] | None:
        """Channels whose ablation alone loses the label; None where that was not tried."""
        return None if self.channels is None else self.channels.necessary

    @property
    def circuits(self) -> dict[str, Circuit]:
        """The circuits beside the first one, by title."""
        titles = {"published readout": self.readout, "readout of the whole photograph": self.whole}
        return {title: each for title, each in titles.items() if each is not None}


@dataclass(frozen=True, kw_only=True)
class CircuitRequest:
    """Which circuit is wanted.

    Attributes:
        first: Which is shown first, of `CIRCUITS`.
        reference: Photographs of other things, that a circuit is discovered against.
        top_k, nodes, edges, granularity: Of the readout, see `read_circuit`.
    """

    first: str = DISCOVERED
    reference: Sequence[Path] = ()
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

    if circuit.first not in CIRCUITS:
        raise OptionError(f"unknown circuit `{circuit.first}`; there are: {', '.join(CIRCUITS)}")
    if circuit.reference and circuit.first != DISCOVERED:
        raise OptionError("reference photographs go with a discovered circuit, not with a readout")
    check_selection(COVERAGE, circuit.top_k, circuit.nodes, circuit.edges, circuit.granularity)
    check_methods(methods)


def photographs_in(folder: Path) -> list[Path]:
    """The photographs of a folder, by name.

    Raises:
        OptionError: There is no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise OptionError(f"no such folder of photographs: `{folder}`")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPHS)
    if not found:
        raise OptionError(f"no photograph in `{folder}`: none ends in {', '.join(PHOTOGRAPHS)}")
    return found


def find(
    classifier: Classifier,
    image: Prepared,
    mask: Request,
    circuit: CircuitRequest,
    methods: Sequence[str],
    *,
    instances: bool = False,
    boxes: Sequence[Box] = (),
    alternatives: int = 0,
    curve: bool = False,
    verify: bool = True,
    photographs: Sequence[ImageSource] = (),
    command: str = "",
    progress: Progress = silent,
) -> Finding:
    """Explain an image, find the circuit, and measure both beside other methods.

    Args:
        classifier: The classifier; it is left as it was found.
        image: From `Classifier.prepare`.
        mask: What is asked of the mask.
        circuit: What is asked of the circuit.
        methods: Keys of `BASELINES`.
        instances: Whether to look for further objects of the class.
        boxes: Where they are, see `explain_instances`; none for those that are found.
        alternatives: For so many other explanations of the same object is looked.
        curve: Whether to find out what keeping the activations costs.
        verify: Whether to test the circuit by ablation, beside what is found for other classes,
            and its most relevant channels one by one.
        photographs: To take crops from that drive the channels most.
        command: What was typed, for the record.
        progress: Called after each step.

    Raises:
        ExpcamError: See the texts of its kinds.
    """
    from expcam.circuits.ablation.verification import verify_circuit
    from expcam.circuits.channels import channel_facts
    from expcam.circuits.readout import read_circuit
    from expcam.classifier.precision import flushed_denormals
    from expcam.explain.api import explain_image
    from expcam.explain.compare.compare import compare
    from expcam.explain.compare.curve import match_curve
    from expcam.explain.instances import explain_alternatives, explain_instances
    from expcam.graphs.page.provenance import provenance

    others: list[Explanation] = []
    if instances or boxes:
        first, *others = explain_instances(
            classifier,
            image,
            target=mask.target,
            boxes=boxes,
            recipe=mask.recipe,
            seed=mask.seed,
            progress=progress,
        )
    else:
        first = explain_image(classifier, image, **vars(mask), progress=progress)
    further = None
    if alternatives:
        further = explain_alternatives(classifier, first, most=alternatives, progress=progress)
    costs = None
    if curve:
        costs = match_curve(
            classifier, image, target=mask.target, seed=mask.seed, progress=progress
        )
    read = partial(
        read_circuit,
        classifier,
        top_k=circuit.top_k,
        nodes=circuit.nodes,
        edges=circuit.edges,
        granularity=circuit.granularity,
    )
    with flushed_denormals():
        readout, whole = read(first), read(first, whole_image=True)
        readouts = [readout, *(read(each) for each in others)] if others else []
        found, why = None, ""
        if circuit.first == DISCOVERED:
            found, why = _discovered(
                classifier, first, circuit.reference, mask.seed, controls=verify, progress=progress
            )
        shown = [readout] if found is None else [found, readout]
        check = channels = None
        if verify and readout.graph.graph["wiring"] == "exact":
            check = verify_circuit(
                classifier, shown[0], [first], reference=circuit.reference, progress=progress
            )
            channels = channel_facts(
                classifier, shown, first, most=LOOKED_AT, images=photographs, progress=progress
            )
        table = compare(classifier, first, methods, progress=progress)
    return Finding(
        explanation=first,
        circuit=shown[0],
        table=table,
        instances=others,
        readouts=readouts,
        alternatives=further,
        curve=costs,
        readout=None if found is None else readout,
        no_circuit=why,
        whole=whole,
        check=check,
        channels=channels,
        made=provenance(classifier, command=command),
    )


def _discovered(
    classifier: Classifier,
    explanation: Explanation,
    reference: Sequence[Path],
    seed: int,
    *,
    controls: bool,
    progress: Progress,
) -> tuple[Circuit | None, str]:
    """The circuit that carries the decision; or None, and why there is none."""
    from expcam.circuits.discovery.discover import discover_circuit

    try:
        circuit = discover_circuit(
            classifier,
            explanation,
            reference=reference,
            seed=seed,
            controls=controls,
            progress=progress,
        )
    except CircuitError as error:
        return None, str(error)
    return circuit, ""
