"""Write a finding in the format that a file's suffix names.

Importing this module is cheap; each writer loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from expcam.errors import OptionError
from expcam.files import written_whole
from expcam.graphs.finding import Finding

CSV_FILES = ("nodes.csv", "edges.csv", "circuit.csv", "methods.csv")


def write_html(path: Path, finding: Finding) -> None:
    """The interactive page."""
    from expcam.graphs.report import write_report

    write_report(
        path,
        finding.explanation,
        finding.circuit,
        finding.table,
        instances=finding.instances,
        readouts=finding.readouts,
        alternatives=finding.alternatives,
        curve=finding.curve,
        circuits=finding.circuits,
        no_circuit=finding.no_circuit,
        check=finding.check,
        channels=finding.channels,
        made=finding.made,
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
    ".pdf": write_picture,
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
