import subprocess
import sys

import pytest
import torch

from expcam.circuits.scores import (
    EDGE_SCORE,
    EDGE_SCORES,
    NODE_SCORE,
    NODE_SCORES,
    EdgeMeasures,
    score_name,
)
from expcam.circuits.trace.recording import Channels
from expcam.errors import OptionError
from expcam.graphs.wording import EDGE_MEANING


def test_every_score_of_one_edge_by_hand() -> None:
    edge = EdgeMeasures(
        weight=torch.tensor([[3.0]]),
        activation=torch.tensor([[2.0]]),
        signed=torch.tensor([[-5.0]]),
        attribution=torch.tensor([[-7.0]]),
        sensitivity=torch.tensor([[11.0]]),
    )
    found = {name: score.of(edge).tolist() for name, score in EDGE_SCORES.items()}
    assert found == {
        "weight×activation": [[6]],
        "signed": [[5]],
        "gradient×activation": [[7]],
        "weight×activation×gradient": [[66]],
        "activation": [[2]],
        "weight": [[3]],
    }
    assert set(EDGE_MEANING) == set(EDGE_SCORES)


def test_scores_without_a_gradient_need_none() -> None:
    one = torch.ones(1, 1)
    edge = EdgeMeasures(weight=one, activation=one, signed=one)
    for name, score in EDGE_SCORES.items():
        if not score.needs_gradient:
            assert score.of(edge).tolist() == [[1]], name


def test_names() -> None:
    assert score_name("weight*activation", EDGE_SCORES, "edge") == "weight×activation"
    with pytest.raises(OptionError, match="unknown edge score `size`; there are: weight×activ"):
        score_name("size", EDGE_SCORES, "edge")
    assert EDGE_SCORE in EDGE_SCORES
    assert NODE_SCORE in NODE_SCORES


def test_the_choices_are_known_without_torch() -> None:
    code = "import sys, expcam.circuits.scores as s; print(*s.EDGE_SCORES, 'torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert found.stdout.split() == [*EDGE_SCORES, "False"], found.stderr


def test_every_score_of_nodes_by_hand() -> None:
    channels = Channels(
        activation=torch.tensor([2.0, 3.0]), attribution=torch.tensor([-16.0, 81.0])
    )
    found = {name: score(channels).tolist() for name, score in NODE_SCORES.items()}
    assert found == {
        "relevance": [16, 81],
        "blend": [2 * 2, 3 * 3],
        "gradient×activation": [0, 81],
        "activation": [2, 3],
    }
