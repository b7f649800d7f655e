import pytest
import torch

from expcam.circuits.names import EDGE_SCORE_NAMES, NODE_SCORE_NAMES
from expcam.circuits.reading import Contribution
from expcam.circuits.scores import EDGE_SCORES, NODE_SCORES, Channels, score_name
from expcam.errors import OptionError
from expcam.graphs.wording import EDGE_MEANING


def test_every_score_of_one_edge_by_hand() -> None:
    contribution = Contribution(
        source="a",
        target="b",
        sources=torch.tensor([4]),
        targets=torch.tensor([2]),
        weight=torch.tensor([[3.0]]),
        signed=torch.tensor([[-5.0]]),
        attribution=torch.tensor([[-7.0]]),
        pull=torch.tensor([11.0]),
        columns=None,
    )
    found = {
        name: float(score(contribution, torch.tensor([2.0]))) for name, score in EDGE_SCORES.items()
    }
    assert found == {
        "weight×activation": 6,
        "signed": 5,
        "gradient×activation": 7,
        "weight×activation×gradient": 66,
        "activation": 2,
        "weight": 3,
    }
    assert set(EDGE_MEANING) == set(EDGE_SCORES)


def test_names() -> None:
    assert tuple(NODE_SCORES) == NODE_SCORE_NAMES
    assert tuple(EDGE_SCORES) == EDGE_SCORE_NAMES
    assert score_name("weight*activation", EDGE_SCORES, "edge") == "weight×activation"
    with pytest.raises(OptionError, match="unknown edge score `size`; there are: weight×activ"):
        score_name("size", EDGE_SCORES, "edge")


def test_every_score_of_nodes_by_hand() -> None:
    channels = Channels(activation=torch.tensor([2.0, 3.0]), signed=torch.tensor([-16.0, 81.0]))
    found = {name: score(channels).tolist() for name, score in NODE_SCORES.items()}
    assert found == {
        "relevance": [16, 81],
        "blend": [2 * 2, 3 * 3],
        "gradient×activation": [0, 81],
        "activation": [2, 3],
    }
