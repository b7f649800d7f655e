"""Write a finding in the format that a file's suffix names.

Importing this module is cheap; each writer loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from expcam.errors import OptionError
from expcam.files import written_whole
from expcam.graphs.finding import Finding

if TYPE_CHECKING:
    import pandas as pd

CSV_FILES = (
    *("nodes.csv", "edges.csv", "circuit.csv", "methods.csv"),
    *("masks.csv", "match_curve.csv"),
)

MASK_FIGURES = ("area", "kept", "robustness", "necessary", "cell", "divergence")


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
    """A folder with the circuit's tables, which `Circuit.load` reads, and further ones.

    ``methods.csv``, ``masks.csv`` (see `mask_table`), and ``match_curve.csv`` where there is one.
    """
    with written_whole(path) as temporary:
        finding.circuit.save(temporary)
        methods = finding.table.drop(columns="attribution")
        methods.to_csv(temporary / "methods.csv", index=False)
        mask_table(finding).to_csv(temporary / "masks.csv", index=False)
        if finding.curve is not None:
            finding.curve.to_csv(temporary / "match_curve.csv", index=False)


def mask_table(finding: Finding) -> pd.DataFrame:
    """A row for the explanation, each further object and each alternative, with their figures."""
    import pandas as pd

    objects = [finding.explanation, *finding.instances]
    named = [
        *((f"object {n}", each) for n, each in enumerate(objects, start=1)),
        *((f"alternative {n}", each) for n, each in enumerate(finding.alternatives or (), start=1)),
    ]
    rows = [
        {
            "mask": name,
            **{figure: getattr(each, figure) for figure in MASK_FIGURES},
            "match": each.match.last,
            **{f"match_{name}": control.last for name, control in each.match_controls.items()},
        }
        for name, each in named
    ]
    return pd.DataFrame(rows)


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
