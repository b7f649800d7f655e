"""Write a finding in the format that a file's suffix names.

Importing this module is cheap; each writer loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from expcam.errors import OptionError
from expcam.files import written_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from expcam.circuits.circuit import Circuit
    from expcam.circuits.formats import Node
    from expcam.circuits.verification import CircuitCheck
    from expcam.explain.explanation import Explanation


CSV_FILES = ("nodes.csv", "edges.csv", "circuit.csv", "methods.csv")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """All that is known of one image: what an export may write.

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


def write_html(path: Path, finding: Finding) -> None:
    """The interactive page."""
    from expcam.graphs.report import write_report

    write_report(
        path,
        finding.explanation,
        finding.circuit,
        finding.table,
        instances=finding.instances,
        check=finding.check,
        necessary=finding.necessary,
        maps=finding.maps,
    )


def write_circuit(path: Path, finding: Finding) -> None:
    """The circuit as JSON, GraphML or GEXF; `Circuit.load` reads it."""
    finding.circuit.save(path)


def write_csv(path: Path, finding: Finding) -> None:
    """A folder with the circuit's tables, which `Circuit.load` reads, and ``methods.csv``."""
    with written_whole(path) as temporary:
        finding.circuit.save(temporary)
        methods = finding.table.drop(columns="attribution")
        methods.to_csv(temporary / "methods.csv", index=False)


def write_picture(path: Path, finding: Finding) -> None:
    """The circuit as a still picture."""
    from expcam.graphs.plots import plot_circuit, save_figure

    save_figure(plot_circuit(finding.circuit), path)


WRITERS: dict[str, Callable[[Path, Finding], None]] = {
    ".html": write_html,
    ".json": write_circuit,
    ".graphml": write_circuit,
    ".gexf": write_circuit,
    ".csv": write_csv,
    ".png": write_picture,
    ".svg": write_picture,
}


def writer_for(path: str | Path) -> Callable[[Path, Finding], None]:
    """The writer that a path's suffix names.

    Raises:
        OptionError: No such format; the message lists them.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITERS:
        raise OptionError(f"cannot write `{path}`: its suffix must be one of {', '.join(WRITERS)}")
    return WRITERS[suffix]
