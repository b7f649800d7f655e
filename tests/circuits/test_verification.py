"""By hand on the micro network of `conftest`, whose logits on (1, 2, 3) are (1, 8).

With everything ablated by zero the logits are 0, so a class's logit over 8 is its faithfulness.
"""

import pandas as pd
import pytest
import torch
from torch import nn

import expcam
from expcam.circuits.choosing import RANDOM
from expcam.circuits.scores import NODE_SCORES
from expcam.circuits.subjects import RANDOMISED, WEIGHT
from expcam.circuits.verification import CircuitCheck, necessary_channels
from expcam.errors import OptionError, WiringError
from expcam.graphs.wording import circuit_verdict
from tests.circuits.blocks import Attention
from tests.helpers import EXAMPLES, keeping_everything

OURS = "relevance"


def row(check: CircuitCheck, method: str, ablation: str = "zero") -> pd.Series:
    curves = check.curves
    found = curves[(curves["method"] == method) & (curves["ablation"] == ablation)]
    assert len(found) == 1
    return found.iloc[0]


def test_zero_ablation_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0)
    check = expcam.verify_circuit(micro, circuit, [all_kept], sizes=[0.5])
    # |gradient × activation| keeps conv1's first channel, a1 = (2, 0), and conv2's second: conv2
    # gives (2, -2), its batch norm (1, 3), kept (0, 3); the sum (2, 3), the logit 1 + 6.
    ours = row(check, OURS)
    assert ours["faithfulness"] == pytest.approx(7 / 8, abs=1e-4)
    assert ours["label_kept"]
    # Removed: a1 = (0, 4), conv2 (2, 4), batch norm (1, -3), kept (1, 0); the sum (1, 4), 0.5 + 8.
    assert ours["completeness"] == pytest.approx(8.5 / 8, abs=1e-4)
    # Signed, conv2's first channel is the better one: a2 = (1, 0), the sum (3, 0), the logit 1.5.
    assert row(check, "gradient×activation")["faithfulness"] == pytest.approx(1.5 / 8, abs=1e-4)
    # The whole circuit is the whole model.
    own = check.circuit.set_index("method").loc["circuit"]
    assert own["size"] == 1
    assert own["faithfulness"] == pytest.approx(1, abs=1e-5)
    assert own["completeness"] == pytest.approx(0, abs=1e-5)


def test_mean_and_resample_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0)
    # On (0.5, 0, 1) conv1 gives (0.5, 1) and a1 is (1, 4); conv2 (3, 3), so that a2 is (1.5, -2).
    other = torch.tensor([0.5, 0.0, 1.0])[:, None, None].expand(3, 2, 2)
    check = expcam.verify_circuit(
        micro,
        circuit,
        [all_kept],
        reference=[other],
        ablations=["mean", "resample"],
        sizes=[0.5],
    )
    # All ablated: the sum (2.5, 2), the logit 1.25 + 4. Kept are conv1's first channel, so that
    # a1 is (2, 4) as ever, and conv2's second: a2 = (1.5, -1), the sum (3.5, 3), 1.75 + 6.
    none, kept = 5.25, 7.75
    for ablation in ("mean", "resample"):
        figures = row(check, OURS, ablation)
        assert figures["logit_ratio"] == pytest.approx(kept / 8, abs=1e-4)
        assert figures["faithfulness"] == pytest.approx((kept - none) / (8 - none), abs=1e-3)


def test_hidden_linear_layers(micro: expcam.Classifier) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
    ).eval()
    classifier = expcam.Classifier(net, transform=micro.transform)
    x = torch.rand(3, 2, 2)
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x, 1), coverage=1.0)
    check = expcam.verify_circuit(classifier, circuit, [x], sizes=[0.5])
    assert check.circuit.set_index("method").loc["circuit", "faithfulness"] == pytest.approx(1)


def test_a_real_circuit_is_measured_beside_controls(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    check = expcam.verify_circuit(
        bundled,
        cat_circuit,
        [cat],
        reference=[EXAMPLES / "coffee.jpg"],
        ablations=["zero", "mean"],
        sizes=[0.1, 0.5],
        draws=3,
    )
    assert set(check.curves["method"]) == {*NODE_SCORES, WEIGHT, RANDOM, RANDOMISED}
    assert len(check.curves) == 2 * 2 * (len(NODE_SCORES) + 2 + 3)
    assert set(check.summary().columns) == {
        "distance",
        "spread",
        "removal",
        "smallest",
        "label_kept",
    }
    again = expcam.verify_circuit(bundled, cat_circuit, [cat], sizes=[0.1, 0.5], draws=3)
    zero = check.curves.query("ablation == 'zero'").reset_index(drop=True)
    pd.testing.assert_frame_equal(zero, again.curves)
    # Removing the relevant channels takes more of the logit than removing random ones. (Kept
    # alone they overshoot on this photograph, so that controls lie nearer to 1: it is said so.)
    summary = check.summary().loc["nodes", "zero"]
    assert summary["removal"][OURS] < summary["removal"][RANDOM]
    as_good = check.controls_as_good("zero")
    assert all(summary["distance"][name] <= summary["distance"][OURS] for name in as_good)
    assert (RANDOM in as_good) == (summary["distance"][RANDOM] <= summary["distance"][OURS])


def test_bad_options(
    bundled: expcam.Classifier, micro: expcam.Classifier, cat: expcam.Explanation,
    cat_circuit: expcam.Circuit,
) -> None:  # fmt: skip
    with pytest.raises(OptionError, match="unknown ablation `noise`; there are: zero, mean"):
        expcam.verify_circuit(bundled, cat_circuit, [cat], ablations=["noise"])
    with pytest.raises(OptionError, match="need reference images"):
        expcam.verify_circuit(bundled, cat_circuit, [cat], ablations=["mean"])
    with pytest.raises(OptionError, match="no images"):
        expcam.verify_circuit(bundled, cat_circuit, [])
    with pytest.raises(OptionError, match="sizes are shares"):
        expcam.verify_circuit(bundled, cat_circuit, [cat], sizes=[0.5, 1.5])
    with pytest.raises(OptionError, match="is not in this classifier"):
        expcam.verify_circuit(micro, cat_circuit, [torch.ones(3, 2, 2)])


def test_edges_of_a_circuit_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0, include_input=True)
    check = expcam.verify_circuit(micro, circuit, [all_kept], parts=["edges"], sizes=[0.5])
    # All edges but those of the other class: the whole logit, and removed none of it.
    own = check.circuit.set_index("method").loc["circuit"]
    assert own["faithfulness"] == pytest.approx(1, abs=1e-5)
    assert own["completeness"] == pytest.approx(0, abs=1e-5)
    # Half of the edges of each layer, by gradient × activation: conv1's three that are not 0;
    # conv2's into its second channel, 4 and 8 (the others 1/2); the classes' into "yes". So
    # conv2 gives (0, 2), its batch norm (0, -1), the sum is (2, 3), the logit 1 + 6; with no
    # edge kept it is 2, that of a grey image.
    kept = row(check, "gradient×activation")
    assert kept["faithfulness"] == pytest.approx((7 - 2) / (8 - 2), abs=1e-4)
    assert check.ours["edges"] == "weight×activation"


def test_attention_is_tested_by_its_heads_and_neurons() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2).clone()
    classifier = expcam.Classifier(Attention().eval(), transform=lambda image: x)
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x, 1), coverage=1.0)
    check = expcam.verify_circuit(classifier, circuit, [x], sizes=[0.5])
    # Kept are the two best embedding channels of four, the second and the third, the first head
    # and the first neuron: the stream (0, 2, 3, 0) and the head's (0, 2) give (0, 4, 3, 0), the
    # neuron 0: 40 + 300 of the whole's 2 + 40 + 600 + 4000.
    relevance = [(1 + 1) * 2001, (1 + 1) * 20, (1 + 1) * 300, 0]
    assert relevance[0] > relevance[2] > relevance[1]
    ours = row(check, OURS)
    # The first and the third: the stream (1, 0, 3, 0), the head's (1, 0): (2, 0, 3, 0), the
    # neuron 2, and so 2 + 300 + 1000 · 4.
    assert ours["logit_ratio"] == pytest.approx((2 + 300 + 4000) / (2 + 40 + 600 + 4000))
    with pytest.raises(WiringError, match="edges of a classifier with attention"):
        expcam.verify_circuit(classifier, circuit, [x], parts=["edges"])


def test_necessary_channels_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0)
    # Logits without one: conv1:0 (0, 2.5), conv1:1 and conv2:0 and conv2:1 see below.
    found = necessary_channels(micro, circuit, all_kept)
    by_hand = []
    for node in circuit.graph:
        if node[0] == "fc":
            continue
        with expcam.ablate(micro, [node]) as ablated, torch.no_grad():
            logits = ablated.logits(torch.from_numpy(all_kept.input)[None])
        if int(logits.argmax()) != 1:
            by_hand.append(node)
    assert found == by_hand
    # Neither of the four is: the class leads by 7.
    assert found == []
    doubtful = expcam.Classifier(
        nn.Sequential(*_doubtful()).eval(), transform=micro.transform, labels=["no", "yes"]
    )
    x = torch.from_numpy(all_kept.input)
    own = expcam.read_circuit(doubtful, keeping_everything(doubtful, x, 1), coverage=1.0)
    assert necessary_channels(doubtful, own, x) == [("0", 2)]
    # Of a class that the classifier does not give, no channel is what the label hangs on.
    other = expcam.read_circuit(doubtful, keeping_everything(doubtful, x, 0), coverage=1.0)
    assert necessary_channels(doubtful, other, x) is None
    check = expcam.verify_circuit(doubtful, other, [x], sizes=[0.5])
    assert not check.holds
    assert "as it does not with all of them" in circuit_verdict(check)


def _doubtful() -> list[nn.Module]:
    """Says yes because of its third channel alone: 3 against 2."""
    conv, fc = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        fc.weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.1, 0.0, 1.0]]))
    return [conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc]


def test_between_blocks_layers_stay_whole(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    blocks = expcam.read_circuit(micro, all_kept, coverage=1.0, granularity="blocks")
    assert blocks.layers == ["conv1", "conv2", "fc"]
    blocks.graph.remove_nodes_from([node for node in list(blocks.graph) if node[0] == "conv1"])
    own = expcam.verify_circuit(micro, expcam.Circuit(blocks.graph), [all_kept], sizes=[0.5])
    assert own.circuit.set_index("method").loc["circuit", "faithfulness"] == pytest.approx(1)
    with pytest.raises(OptionError, match="edges between blocks"):
        expcam.verify_circuit(micro, blocks, [all_kept], parts=["edges"])


def test_what_was_not_tested_or_not_asked_of_one_class(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    circuit = expcam.read_circuit(micro, all_kept)
    check = expcam.verify_circuit(micro, circuit, [all_kept], sizes=[0.5])
    with pytest.raises(OptionError, match="edges were not tested by zero ablation"):
        check.controls_as_good("zero", "edges")
    with pytest.raises(OptionError, match="a circuit is of one class"):
        expcam.read_circuit(micro.between(1, 0), all_kept)
