"""How a finding was made, so that somebody else can make it again."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import torch
from torch import nn

from expcam.circuits.circuit import Circuit
from expcam.classifier.model import Classifier
from expcam.explain.explanation import Explanation

PACKAGES = ("expcam", "torch", "torchvision", "captum", "numpy")
REFERENCES = (
    ("Suhail, Anand, Sethi: Activation Matching for Explanation Generation", "arXiv 2509.23051"),
    ("Suhail, Anand, Sethi: EXP-CAM, explanation generation and circuits", "arXiv 2509.25686"),
    ("Selvaraju et al.: Grad-CAM", "arXiv 1610.02391"),
    ("Sundararajan, Taly, Yan: Integrated Gradients", "arXiv 1703.01365"),
    ("Wang et al.: faithfulness of a circuit", "arXiv 2211.00593"),
    ("Mueller et al.: MIB, a benchmark of circuits", "arXiv 2504.13151"),
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a finding was made with.

    Attributes:
        weights: SHA-256 of the classifier's weights (see `weights_hash`).
        device: Where it ran.
        command: What to type to find the same; empty where it was no command.
        versions: Of the packages that matter, by name.
    """

    weights: str
    device: str
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def provenance(classifier: Classifier, *, command: str = "") -> Provenance:
    """What a finding of this classifier, here and now, is made with."""
    versions = {name: version(name) for name in PACKAGES}
    return Provenance(
        weights=weights_hash(classifier.module),
        device=str(classifier.device),
        command=command,
        versions={**versions, "Python": platform.python_version()},
    )


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of a module's state dict, in its order."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def made_with(
    explanation: Explanation, circuit: Circuit, made: Provenance | None
) -> list[tuple[str, str]]:
    """Rows of a table: what, and with what."""
    e, facts = explanation, circuit.graph.graph
    rows = [
        ("Photograph", e.source or "given without a file name"),
        ("Classifier", e.classifier),
        *([("Weights, SHA-256", made.weights), ("Device", made.device)] if made else []),
        ("Class", f"{e.label_name} ({', '.join(map(str, e.group or (e.label,)))})"),
        *([("Contrast", f"{e.contrast_name} ({e.contrast})")] if e.contrast is not None else []),
        ("Mask", f"objective {e.objective}, recipe {e.recipe}, seed {e.seed}{_asked(e)}"),
        ("Work", f"{e.seconds:.1f} s, {e.cost:.0f} forward and backward passes for the mask"),
        (
            "Circuit",
            ", ".join(f"{name} {facts[name]}" for name in facts if name in _SETTINGS),
        ),
    ]
    if made:
        rows.append(("Versions", ", ".join(f"{k} {v}" for k, v in made.versions.items())))
    return rows


def _asked(e: Explanation) -> str:
    return "".join(f", match at least {least:g} at {tap}" for tap, least in e.match_asked.items())


_SETTINGS = ("method", "nodes", "edges", "coverage", "top_k", "granularity", "wiring")
