from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

import expcam
from expcam.errors import OptionError
from expcam.explain.request import Request
from expcam.graphs.exports import writer_for
from expcam.graphs.finding import (
    DISCOVERED,
    LOOKED_AT,
    READOUT,
    CircuitRequest,
    check_requests,
    find,
    photographs_in,
)
from expcam.graphs.methods import method_rows
from expcam.graphs.summary import lines
from tests.helpers import EXAMPLES

MASK = Request(objective="sufficient")
CIRCUIT = CircuitRequest(
    first=READOUT, top_k=2, nodes="relevance", edges="weight×activation", granularity="layers"
)
DISCOVERY = replace(CIRCUIT, first=DISCOVERED)


def red_photograph() -> Image.Image:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[4:20, 8:24, 0] = 255
    return Image.fromarray(picture)


def test_an_image_to_all_that_is_known_of_it(detector: expcam.Classifier, tmp_path: Path) -> None:
    red_photograph().save(tmp_path / "red.png")
    prepared = detector.prepare(tmp_path / "red.png")
    stages: list[str] = []
    found = find(
        detector, prepared, MASK, CIRCUIT, ["disc"], command="expcam-circuit red.png",
        progress=lambda stage, done, total: stages.append(stage),
    )  # fmt: skip
    assert found.explanation.label_name == "red"
    assert found.explanation.kept
    assert found.explanation.source == "red.png"
    assert found.circuit.nodes.groupby("layer").size().max() <= 2
    assert found.table["method"].tolist() == ["expcam", "disc"]
    assert found.check is not None
    assert found.channels is not None
    assert found.necessary == found.channels.necessary
    assert list(found.circuits) == ["readout of the whole photograph"]
    assert found.made is not None
    assert found.made.command == "expcam-circuit red.png"
    assert {"baselines", "ablation", "channels"} <= set(stages)
    untested = find(detector, prepared, MASK, CIRCUIT, [], verify=False)
    assert untested.check is None
    assert untested.necessary is None


def test_a_circuit_is_discovered_and_the_readout_stands_beside_it(
    bundled: expcam.Classifier, tmp_path: Path
) -> None:
    prepared = bundled.prepare(EXAMPLES / "cat.jpg")
    found = find(bundled, prepared, MASK, DISCOVERY, [])
    facts = found.circuit.graph.graph
    assert (facts["method"], facts["reference"], facts["seed"]) == ("gates", "rest", 0)
    assert facts["selectivity"] > 0
    assert found.no_circuit == ""
    assert found.check is not None
    assert list(found.circuits) == ["published readout", "readout of the whole photograph"]
    assert found.readout is not None
    assert found.readout.nodes.groupby("layer").size().max() <= 2
    # Only of the most relevant it is asked what the class is without them.
    assert found.channels is not None
    looked_at = found.channels.effects.groupby("layer").size()
    assert looked_at.max() <= LOOKED_AT + 2 < found.circuit.nodes.groupby("layer").size().max()
    writer_for("g.html")(tmp_path / "g.html", found)
    page = (tmp_path / "g.html").read_text(encoding="utf-8")
    assert "discovered (gates)" in page
    assert "times as many channels" in page


def test_where_there_is_no_circuit_the_readout_is_a_hypothesis(
    detector: expcam.Classifier,
) -> None:
    # It says `red` of half the square already: nothing is an input without the evidence.
    found = find(detector, detector.prepare(red_photograph()), MASK, DISCOVERY, [], verify=False)
    assert "give reference photographs of other classes" in found.no_circuit
    assert found.circuit.graph.graph["method"] == "readout"
    assert found.readout is None
    assert list(found.circuits) == ["readout of the whole photograph"]


def test_with_reference_photographs_there_are_inputs_without_the_evidence(
    detector: expcam.Classifier, tmp_path: Path
) -> None:
    for shade in (40, 90, 140):
        Image.new("RGB", (32, 32), (0, 0, shade)).save(tmp_path / f"{shade}.png")
    asked = replace(DISCOVERY, reference=photographs_in(tmp_path))
    found = find(detector, detector.prepare(red_photograph()), MASK, asked, [], verify=False)
    if not found.no_circuit:
        assert found.circuit.graph.graph["reference"] == "rest, photos"
    assert "give reference photographs" not in found.no_circuit


def test_further_objects_are_looked_for_on_request(detector: expcam.Classifier) -> None:
    picture = np.asarray(red_photograph()).copy()
    picture[22:30, 8:24, 0] = 255
    found = find(
        detector, detector.prepare(picture), Request(), CIRCUIT, [], instances=True, verify=False
    )
    assert len(found.instances) >= 1
    assert not (found.explanation.mask & found.instances[0].mask).any()
    # Of each object its readout, and nobody looked for alternatives.
    assert len(found.readouts) == 1 + len(found.instances)
    assert nx.utils.graphs_equal(found.readouts[0].graph, found.circuit.graph)
    assert found.alternatives is None
    alone = find(detector, detector.prepare(red_photograph()), MASK, CIRCUIT, [], alternatives=1)
    assert alone.alternatives is not None
    assert list(alone.readouts) == []


def test_photographs_of_a_folder_drive_its_channels(
    detector: expcam.Classifier, tmp_path: Path
) -> None:
    red_photograph().save(tmp_path / "b.PNG")
    red_photograph().save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("no photograph")
    photographs = photographs_in(tmp_path)
    assert [path.name for path in photographs] == ["a.jpg", "b.PNG"]
    found = find(
        detector, detector.prepare(photographs[1]), MASK, CIRCUIT, [], photographs=photographs
    )
    assert found.channels is not None
    assert {crop.image for crops in found.channels.crops.values() for crop in crops} == {0, 1}


def test_a_folder_without_photographs_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no photograph in `.*`: none ends in \.jpg"):
        photographs_in(tmp_path)
    with pytest.raises(OptionError, match="no such folder of photographs"):
        photographs_in(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("circuit", "methods", "message"),
    [
        ({"top_k": 0}, [], "at least 1"),
        ({}, ["lime"], "unknown baseline `lime`"),
        ({"first": "lottery"}, [], "unknown circuit `lottery`; there are: discovered, readout"),
        ({"reference": [Path("a.jpg")]}, [], "go with a discovered circuit, not with a readout"),
    ],
)
def test_options_are_looked_at_before_the_work(
    circuit: dict[str, object], methods: list[str], message: str
) -> None:
    read = CircuitRequest(**{**vars(CIRCUIT), **circuit})
    with pytest.raises(OptionError, match=message):
        check_requests(read, methods)


def test_on_a_transformer_grad_cam_gives_a_reason_and_the_rest_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip
    nn.init.normal_(vit.heads.head.weight)
    classifier = expcam.Classifier(vit.eval(), transform=lambda image: torch.zeros(3, 32, 32))
    prepared = classifier.prepare(torch.randn(3, 32, 32))
    request = Request(objective="sufficient", area=0.5)
    found = find(classifier, prepared, request, CIRCUIT, ["gradcam", "ig"], verify=False)
    _, gradcam, ig = method_rows(found.table)
    assert gradcam.attribution is None
    assert "feature map" in gradcam.reason
    assert ig.attribution is not None
    assert f"Grad-CAM: {gradcam.reason}" in lines(found, tmp_path, 1.0)["others need"]
    writer_for("g.html")(tmp_path / "g.html", found)
    assert gradcam.reason in (tmp_path / "g.html").read_text(encoding="utf-8").replace("&#39;", "'")
