from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import expcam
from expcam.errors import OptionError
from expcam.graphs.finding import CircuitRequest, MaskRequest, check_requests, find

MASK = MaskRequest(
    target=None, contrast=None, objective="sufficient", recipe="constrained", area=None, seed=0
)
CIRCUIT = CircuitRequest(
    top_k=2, nodes="relevance", edges="weight×activation", granularity="layers"
)


def red_photograph() -> Image.Image:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[4:20, 8:24, 0] = 255
    return Image.fromarray(picture)


def test_an_image_to_all_that_is_known_of_it(detector: expcam.Classifier, tmp_path: Path) -> None:
    red_photograph().save(tmp_path / "red.png")
    prepared = detector.prepare(tmp_path / "red.png")
    stages: list[str] = []
    found = find(
        detector, prepared, MASK, CIRCUIT, ["disc"],
        progress=lambda stage, done, total: stages.append(stage),
    )  # fmt: skip
    assert found.explanation.label_name == "red"
    assert found.explanation.kept
    assert found.explanation.source == "red.png"
    assert found.circuit.nodes.groupby("layer").size().max() <= 2
    assert found.table["method"].tolist() == ["expcam", "disc"]
    assert found.check is not None
    assert "baselines" in stages
    untested = find(detector, prepared, MASK, CIRCUIT, [], verify=False)
    assert untested.check is None
    assert untested.necessary is None


def test_further_objects_are_looked_for_on_request(detector: expcam.Classifier) -> None:
    picture = np.asarray(red_photograph()).copy()
    picture[22:30, 8:24, 0] = 255
    robust = MaskRequest(**{**vars(MASK), "objective": "robust"})
    found = find(
        detector, detector.prepare(picture), robust, CIRCUIT, [], instances=True, verify=False
    )
    assert len(found.instances) >= 1
    assert not (found.explanation.mask & found.instances[0].mask).any()


@pytest.mark.parametrize(
    ("mask", "circuit", "methods", "message"),
    [
        ({"objective": "best"}, {}, [], "unknown objective `best`"),
        ({"area": 1.5}, {}, [], "area 1.5 is out of range"),
        ({}, {"top_k": 0}, [], "at least 1"),
        ({}, {}, ["lime"], "unknown baseline `lime`"),
    ],
)
def test_options_are_looked_at_before_the_work(
    mask: dict[str, object], circuit: dict[str, object], methods: list[str], message: str
) -> None:
    wanted = MaskRequest(**{**vars(MASK), **mask})
    read = CircuitRequest(**{**vars(CIRCUIT), **circuit})
    with pytest.raises(OptionError, match=message):
        check_requests(wanted, read, methods)
