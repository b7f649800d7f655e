"""By hand on the micro network of `conftest`: its logits on (1, 2, 3) are (1, 8)."""

import pytest
import torch
from torch import Tensor

import expcam
from expcam.circuits.edge_ablation import edge_scores, edge_wiring, inputs_of, with_edges
from expcam.circuits.scores import EDGE_SCORES
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError
from tests.circuits.blocks import Attention

X = torch.tensor([1.0, 2.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2).clone()
ALL = {"conv1": torch.ones(2, 3), "conv2": torch.ones(2, 2), "fc": torch.ones(2, 2)}


def logits(micro: expcam.Classifier, reference: Tensor, **keep: list[list[float]]) -> list[float]:
    kept = {**ALL, **{name: torch.tensor(rows) for name, rows in keep.items()}}
    with frozen(micro.module) as module, torch.no_grad():
        wiring = edge_wiring(module, X)
        seen = inputs_of(wiring, module, reference)
        return [round(v, 3) for v in with_edges(wiring, module, X, seen, kept)[0].tolist()]


def test_an_edge_that_is_cut_by_hand(micro: expcam.Classifier) -> None:
    zero = torch.zeros_like(X)
    assert logits(micro, zero) == [1.0, 8.0]
    # On grey a1 is (0, 0), conv2 (0, 0), its batch norm (0, 1), the sum too: logits (-1, 2).
    nothing = {name: torch.zeros_like(each).tolist() for name, each in ALL.items()}
    assert logits(micro, zero, **nothing) == [-1.0, 2.0]
    # conv2's second channel no longer sees a1's second: -2, its batch norm 3; the sum is (4, 7).
    assert logits(micro, zero, conv2=[[1, 1], [1, 0]]) == [-3.0, 16.0]
    # The class "yes" sees the second input of the sum as on grey, 1.
    assert logits(micro, zero, fc=[[1, 1], [1, 0]]) == [1.0, 4.0]
    # On another image, (0.5, 0, 1), the sum's second channel is 2.
    other = torch.tensor([0.5, 0.0, 1.0])[None, :, None, None].expand(1, 3, 2, 2)
    assert logits(micro, other, fc=[[1, 1], [1, 0]]) == [1.0, 6.0]


def test_scores_of_all_edges_by_hand(micro: expcam.Classifier) -> None:
    with frozen(micro.module) as module:
        scores = edge_scores(edge_wiring(module, X), module, X, 1, list(EDGE_SCORES))
    # The class sees (4, 3) by weights (1, -1) and (1/2, 2).
    assert scores["weight×activation"]["fc"].tolist() == [[4, 3], [2, 6]]
    assert scores["activation"]["fc"].tolist() == [[4, 3], [4, 3]]
    assert scores["weight"]["fc"].tolist() == [[1, 1], [0.5, 2]]
    assert scores["signed"]["fc"].tolist() == [[4, 3], [2, 6]]
    # Only what reaches the class counts.
    assert scores["gradient×activation"]["fc"].tolist() == [[0, 0], [2, 6]]
    assert scores["weight×activation×gradient"]["fc"].tolist() == [[0, 0], [2, 6]]
    # conv2's channels reach it by 1/2 · 1/2 and -1 · 2; it reads a1 = (2, 4).
    conv2 = scores["gradient×activation"]["conv2"]
    assert conv2.tolist() == pytest.approx(torch.tensor([[0.5, 0.5], [4, 8]]), rel=1e-3)


def test_weights_times_gradients_are_first_order_effects(bundled: expcam.Classifier) -> None:
    """Attribution patching's claim, on real weights: small changes of an edge do what it says."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with frozen(bundled.module) as module:
        score = edge_scores(edge_wiring(module, x), module, x, 3, ["gradient×activation"])
        by_edge = score["gradient×activation"]["layer2.0.conv1"]
        target, source = divmod(int(by_edge.argmax()), by_edge.shape[1])
        with torch.no_grad():
            whole = module(x)[0, 3]
            kernel = module.get_submodule("layer2.0.conv1").weight[target, source]
            before = kernel.clone()
            kernel.mul_(0.99)
            less = module(x)[0, 3]
            kernel.copy_(before)
    change = abs(float(whole - less))
    assert change == pytest.approx(0.01 * float(by_edge[target, source]), rel=0.05)
    assert change > 1e-4


def test_attention_has_no_edges_to_cut() -> None:
    with pytest.raises(WiringError, match="with attention, or with layer or group norms"):
        edge_wiring(Attention().eval(), torch.zeros(1, 3, 2, 2))
