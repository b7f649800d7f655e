"""By hand on the micro network of `conftest`: its logits on (1, 2, 3) are (1, 8)."""

import pytest
import torch
from torch import Tensor

import expcam
from expcam.circuits.ablation.edges import Edges, edge_scores, edge_wiring, layer_run, with_edges
from expcam.circuits.scores import EDGE_SCORES, EdgeScore
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError
from tests.circuits.blocks import COLOURS, Attention, Windows

ALL = {"conv1": torch.ones(2, 3), "conv2": torch.ones(2, 2), "fc": torch.ones(2, 2)}


def logits(micro: expcam.Classifier, reference: Tensor, **keep: list[list[float]]) -> list[float]:
    kept = {**ALL, **{name: torch.tensor(rows) for name, rows in keep.items()}}
    with frozen(micro.module) as module, torch.no_grad():
        wiring = edge_wiring(module, COLOURS)
        seen = layer_run(wiring, wiring.program.arguments(module, reference))
        found = with_edges(wiring, wiring.program.arguments(module, COLOURS), seen, kept)
        return [round(v, 3) for v in found[0].tolist()]


def test_an_edge_that_is_cut_by_hand(micro: expcam.Classifier) -> None:
    zero = torch.zeros_like(COLOURS)
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
        scores = Edges(micro, module, COLOURS[0], 1).scores(module)
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


def test_signed_scores_look_at_every_window_in_the_batch() -> None:
    module, x = Windows().double().eval(), torch.rand(1, 3, 4, 4).double()
    with frozen(module), torch.no_grad():
        wiring = edge_wiring(module, x)
        arguments = wiring.program.arguments(module, x)
        scores = {"signed": EdgeScore(lambda edges: edges.signed)}
        signed = edge_scores(wiring, arguments, 0, scores)["signed"]
        given = layer_run(wiring, arguments).given["second"]
    assert len(given) == 2
    torch.testing.assert_close(signed["second"].sum(1) + module.second.bias, given.mean((0, 2, 3)))


def test_weights_times_gradients_are_first_order_effects(bundled: expcam.Classifier) -> None:
    """Attribution patching's claim, on real weights: small changes of an edge do what it says."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with frozen(bundled.module) as module:
        wiring, name = edge_wiring(module, x), "gradient×activation"
        arguments = wiring.program.arguments(module, x)
        score = edge_scores(wiring, arguments, 3, {name: EDGE_SCORES[name]})
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


def test_a_new_score_of_edges_is_read_and_tested(
    micro: expcam.Classifier, all_kept: expcam.Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    squared = EdgeScore(lambda edges: edges.weight * edges.activation**2)
    monkeypatch.setitem(EDGE_SCORES, "squared", squared)
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0, edges="squared")
    # conv2's first channel holds 2 and the class weighs it 1/2.
    assert circuit.graph.edges[("conv2", 0), ("fc", 1)]["score"] == pytest.approx(2, rel=1e-4)
    check = expcam.verify_circuit(micro, circuit, [all_kept], parts=["edges"], sizes=[0.5])
    assert check.ours["edges"] == "squared"
    assert "squared" in set(check.curves["method"])


def test_all_scores_of_both_tables_agree(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    """Of an edge that is one weight, a circuit's score is the one that is tested."""
    with frozen(micro.module) as module:
        scores = Edges(micro, module, COLOURS[0], 1).scores(module)
    for name in EDGE_SCORES:
        circuit = expcam.read_circuit(micro, all_kept, coverage=1.0, edges=name)
        # conv2 reads conv1 through its batch norm and ReLU, but no sum.
        into = {
            (source[1], target[1]): score
            for source, target, score in circuit.graph.edges(data="score")
            if target[0] == "conv2"
        }
        # A circuit's edge has the target's own batch norm folded into its weight, a weight by
        # itself has not.
        folded = name in ("weight", "weight×activation", "weight×activation×gradient", "signed")
        scale = [0.5, 1] if folded else [1, 1]
        own = scores[name]["conv2"]
        assert len(into) == 4
        for (source, target), score in into.items():
            expected = float(own[target, source]) * scale[target]
            assert score == pytest.approx(expected, rel=1e-3), (name, source, target)


def test_edges_of_a_float64_classifier(micro: expcam.Classifier) -> None:
    micro.module.double()
    with frozen(micro.module) as module:
        subject = Edges(micro, module, COLOURS[0], 1)
        logits_of = subject.against([], averaged=False)
        nothing = {name: torch.zeros(shape) for name, shape in subject.shapes.items()}
        assert logits_of([nothing])[0].tolist() == pytest.approx([-1, 2], abs=1e-4)
        assert subject.whole.dtype == torch.float64
