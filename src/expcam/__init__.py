"""expcam: which pixels did a decision need, and which channels carried it?

The public names are loaded when they are first used; ``import expcam`` alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from expcam.errors import ExpcamError, ExpcamWarning

if TYPE_CHECKING:
    from expcam.circuits.ablation import ablate
    from expcam.circuits.circuit import Circuit
    from expcam.circuits.comparison import (
        common_circuit,
        compare_circuits,
        stability,
        strongest_paths,
    )
    from expcam.circuits.evidence import activation_map, top_crops
    from expcam.circuits.readout import read_circuit
    from expcam.circuits.verification import necessary_channels, verify_circuit
    from expcam.classifier.loading import load_classifier
    from expcam.classifier.model import Classifier
    from expcam.explain.compare import compare
    from expcam.explain.explanation import Explanation
    from expcam.explain.run import explain_image, explain_images, explain_instances
    from expcam.graphs.figures import circuit_figure
    from expcam.graphs.plots import plot_activations, plot_circuit, plot_crops, plot_explanation
    from expcam.graphs.report import write_report

__all__ = [
    "Circuit",
    "Classifier",
    "ExpcamError",
    "ExpcamWarning",
    "Explanation",
    "ablate",
    "activation_map",
    "circuit_figure",
    "common_circuit",
    "compare",
    "compare_circuits",
    "explain_image",
    "explain_images",
    "explain_instances",
    "load_classifier",
    "necessary_channels",
    "plot_activations",
    "plot_circuit",
    "plot_crops",
    "plot_explanation",
    "read_circuit",
    "stability",
    "strongest_paths",
    "top_crops",
    "verify_circuit",
    "write_report",
]

_HOMES = {
    "Circuit": "expcam.circuits.circuit",
    "Classifier": "expcam.classifier.model",
    "Explanation": "expcam.explain.explanation",
    "ablate": "expcam.circuits.ablation",
    "activation_map": "expcam.circuits.evidence",
    "circuit_figure": "expcam.graphs.figures",
    "common_circuit": "expcam.circuits.comparison",
    "compare": "expcam.explain.compare",
    "compare_circuits": "expcam.circuits.comparison",
    "explain_image": "expcam.explain.run",
    "explain_images": "expcam.explain.run",
    "explain_instances": "expcam.explain.run",
    "load_classifier": "expcam.classifier.loading",
    "necessary_channels": "expcam.circuits.verification",
    "plot_activations": "expcam.graphs.plots",
    "plot_circuit": "expcam.graphs.plots",
    "plot_crops": "expcam.graphs.plots",
    "plot_explanation": "expcam.graphs.plots",
    "read_circuit": "expcam.circuits.readout",
    "stability": "expcam.circuits.comparison",
    "strongest_paths": "expcam.circuits.comparison",
    "top_crops": "expcam.circuits.evidence",
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
