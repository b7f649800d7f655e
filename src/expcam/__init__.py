"""expcam: which pixels did a decision need, and which channels carried it?

The public names are loaded when they are first used; ``import expcam`` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from expcam.errors import ExpcamError, ExpcamWarning

if TYPE_CHECKING:
    from expcam.circuits.ablation import ablate
    from expcam.circuits.circuit import Circuit
    from expcam.circuits.readout import read_circuit
    from expcam.circuits.verification import verify_circuit
    from expcam.classifier.loading import load_classifier
    from expcam.classifier.model import Classifier
    from expcam.explain.compare import compare
    from expcam.explain.explanation import Explanation
    from expcam.explain.run import explain_image, explain_images, explain_instances
    from expcam.graphs.figures import circuit_figure
    from expcam.graphs.plots import plot_circuit, plot_explanation
    from expcam.graphs.report import write_report

__all__ = [
    "Circuit",
    "Classifier",
    "ExpcamError",
    "ExpcamWarning",
    "Explanation",
    "ablate",
    "circuit_figure",
    "compare",
    "explain_image",
    "explain_images",
    "explain_instances",
    "load_classifier",
    "plot_circuit",
    "plot_explanation",
    "read_circuit",
    "verify_circuit",
    "write_report",
]

_HOMES = {
    "Circuit": "expcam.circuits.circuit",
    "Classifier": "expcam.classifier.model",
    "Explanation": "expcam.explain.explanation",
    "ablate": "expcam.circuits.ablation",
    "circuit_figure": "expcam.graphs.figures",
    "compare": "expcam.explain.compare",
    "explain_image": "expcam.explain.run",
    "explain_images": "expcam.explain.run",
    "explain_instances": "expcam.explain.run",
    "load_classifier": "expcam.classifier.loading",
    "plot_circuit": "expcam.graphs.plots",
    "plot_explanation": "expcam.graphs.plots",
    "read_circuit": "expcam.circuits.readout",
    "verify_circuit": "expcam.circuits.verification",
    "write_report": "expcam.graphs.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `expcam` has no attribute `{name}`")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
