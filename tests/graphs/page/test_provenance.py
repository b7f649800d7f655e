import copy
import dataclasses

import torch

import expcam
from expcam.graphs.page.provenance import made_with, provenance, weights_hash
from tests.graphs.made import made_circuit, made_explanation
from tests.helpers import RedDetector


def test_a_hash_of_weights_changes_with_any_of_them() -> None:
    module = RedDetector()
    same, other = copy.deepcopy(module), copy.deepcopy(module)
    with torch.no_grad():
        other.fc.bias[0] += 1e-6
    assert len(weights_hash(module)) == 64
    assert weights_hash(same) == weights_hash(module)
    assert weights_hash(other) != weights_hash(module)
    assert weights_hash(module.half()) != weights_hash(same)


def test_what_a_finding_was_made_with(detector: expcam.Classifier) -> None:
    made = provenance(detector, command="expcam-circuit a.jpg --out g.html")
    assert torch.__version__.startswith(made.versions["torch"])
    assert made.device == "cpu"
    explanation = dataclasses.replace(made_explanation(), contrast=2, contrast_name="blue")
    circuit = made_circuit(method="ablation", wiring="exact")
    rows = dict(made_with(explanation, circuit, made))
    assert rows["Weights, SHA-256"] == made.weights
    assert rows["Class"] == "red (1)"
    assert rows["Contrast"] == "blue (2)"
    assert "method ablation" in rows["Circuit"]
    assert rows["Mask"] == "objective robust, recipe constrained, seed 0"
    asked = dataclasses.replace(explanation, match_asked={"late": 0.8}, group=(1, 2))
    rows = dict(made_with(asked, circuit, None))
    assert rows["Mask"].endswith("seed 0, match at least 0.8 at late")
    assert rows["Class"] == "red (1, 2)"
    assert "Versions" not in dict(made_with(explanation, circuit, None))
