"""The numbers are worked out by hand on the network of `conftest`."""

import dataclasses
import warnings

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import expcam
from expcam.circuits.readout import check_readable, select
from expcam.circuits.scores import EDGE_SCORES
from expcam.classifier.sources.bundled import SmallResNet
from expcam.errors import ClassifierError, OptionError
from tests.helpers import keeping_everything, kernel


def test_nodes_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0)
    nodes = circuit.nodes.set_index(["layer", "channel"])
    assert nodes["activation"].to_dict() == pytest.approx(
        {("conv1", 0): 2, ("conv1", 1): 4, ("conv2", 0): 2, ("conv2", 1): 1, ("fc", 1): 8},
        rel=1e-4,
    )
    # Gradients of the second logit by one of four pixels, over the skip and through conv2.
    by_conv1 = ((0.5 + 0.5 * 0.5 + 2 * 1) / 4, (2 + 0.5 * 0.25 - 2 * 1) / 4)
    assert nodes["relevance"].to_dict() == pytest.approx(
        {
            ("conv1", 0): 2 * by_conv1[0],
            ("conv1", 1): 4 * by_conv1[1],
            ("conv2", 0): 2 * 0.5 / 4,
            ("conv2", 1): 1 * 2 / 4,
            ("fc", 1): 8,
        },
        rel=1e-3,
    )


def test_edges_by_hand(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    circuit = expcam.read_circuit(micro, all_kept, coverage=1.0, include_input=True)
    found = {
        (source, target): (data["score"], data["signed"])
        for source, target, data in circuit.graph.edges(data=True)
    }
    colour, one, two = ([(layer, n) for n in range(3)] for layer in ("input", "conv1", "conv2"))
    yes = ("fc", 1)
    expected = {
        # A weight of exactly zero is no edge.
        (colour[0], one[0]): (2, 2), (colour[1], one[1]): (8, -8), (colour[2], one[1]): (12, 12),
        (one[0], two[0]): (1, 1), (one[1], two[0]): (1, 1),
        (one[0], two[1]): (2, 2), (one[1], two[1]): (4, -4),
        (one[0], yes): (1, 1), (one[1], yes): (8, 8),
        (two[0], yes): (1, 1), (two[1], yes): (2, -2),
    }  # fmt: skip
    assert set(found) == set(expected)
    for edge, numbers in expected.items():
        assert found[edge] == pytest.approx(numbers, rel=1e-4), edge


def test_folding_batch_norms_changes_nothing() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallResNet(5).eval()
        for each in net.modules():
            if isinstance(each, nn.BatchNorm2d):
                nn.init.uniform_(each.running_var, 0.5, 2)
                nn.init.uniform_(each.weight, 0.5, 1.5)
                nn.init.normal_(each.bias, 0, 0.2)
        x = torch.randn(3, 32, 32)
    classifier = expcam.Classifier(net, transform=lambda image: x)
    explanation = keeping_everything(classifier, x, 3)
    before = expcam.read_circuit(classifier, explanation, coverage=1.0)
    net.conv1, net.bn1 = fuse_conv_bn_eval(net.conv1, net.bn1), nn.Identity()  # type: ignore[assignment]
    for stage in (net.layer1, net.layer2, net.layer3):
        for block in stage:
            for n in ("1", "2"):
                conv, norm = getattr(block, f"conv{n}"), getattr(block, f"bn{n}")
                setattr(block, f"conv{n}", fuse_conv_bn_eval(conv, norm))
                setattr(block, f"bn{n}", nn.Identity())
            if block.downsample is not None:
                block.downsample[0] = fuse_conv_bn_eval(*block.downsample)
                block.downsample[1] = nn.Identity()
    after = expcam.read_circuit(classifier, explanation, coverage=1.0)
    # Channels of almost the same relevance may change places at the end of the selection.
    common = before.graph.edges & after.graph.edges
    assert len(common) > 0.9 * before.graph.number_of_edges() > 1000
    for edge in common:
        ours, theirs = before.graph.edges[edge], after.graph.edges[edge]
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-3, abs=1e-6)
        assert ours["signed"] == pytest.approx(theirs["signed"], rel=1e-2, abs=1e-5)


@given(
    st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.integers(1, 50),
)
def test_selection_is_the_smallest_set_that_covers(
    values: list[float], coverage: float, top_k: int
) -> None:
    relevance = torch.tensor(values, dtype=torch.float64)
    chosen = select(relevance, coverage, top_k)
    total = float(relevance.sum())
    if total == 0:
        assert len(chosen) == 0
        return
    assert 1 <= len(chosen) <= top_k
    assert relevance[chosen].min() >= max(
        (v for n, v in enumerate(values) if n not in chosen.tolist()), default=0
    )
    if len(chosen) < top_k:
        assert float(relevance[chosen].sum()) >= coverage * total * (1 - 1e-9)
    # One channel less would not do.
    assert float(relevance[chosen[:-1]].sum()) < coverage * total


def test_selection_by_hand() -> None:
    relevance = torch.tensor([5.0, 1.0, 3.0, 1.0])
    assert select(relevance, 0.5, 16).tolist() == [0]
    assert select(relevance, 0.8, 16).tolist() == [0, 2]
    assert select(relevance, 0.9, 16).tolist() == [0, 2, 1]
    assert select(relevance, 1.0, 2).tolist() == [0, 2]


def test_a_real_circuit_leads_from_the_first_layer_to_the_class(
    cat_circuit: expcam.Circuit, cat: expcam.Explanation
) -> None:
    assert cat_circuit.class_node == ("fc", cat.label)
    assert cat_circuit.layers[0] == "conv1"
    first = [key for key in cat_circuit.graph if key[0] == "conv1"]
    assert nx.has_path(cat_circuit.graph, first[0], cat_circuit.class_node)
    assert nx.is_directed_acyclic_graph(cat_circuit.graph)
    per_layer = cat_circuit.nodes.groupby("layer").size()
    assert per_layer.max() <= 16
    # The class reads the sum of the last stage: both blocks and the shortcut.
    sources = {source[0] for source, _ in cat_circuit.graph.in_edges(cat_circuit.class_node)}
    assert sources == {"layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"}


def test_real_squeezenet_reads_both_halves_of_a_concatenation(shared: object) -> None:
    classifier = expcam.load_classifier(
        "squeezenet1_0", f"{shared}/models/squeezenet1_0.safetensors", device="cpu"
    )
    photo = f"{shared}/data/photos/n02119022_red_fox.JPEG"
    label = int(classifier.logits(classifier.prepare(photo).input[None]).argmax())
    whole = keeping_everything(classifier, photo, label)
    circuit = expcam.read_circuit(classifier, whole)
    assert circuit.class_node == ("classifier.1", label)
    sources = {source[0] for source, _ in circuit.graph.in_edges(circuit.class_node)}
    assert sources == {"features.12.expand1x1", "features.12.expand3x3"}


def test_bad_options(micro: expcam.Classifier, all_kept: expcam.Explanation) -> None:
    with pytest.raises(OptionError, match="coverage 0 is out of range"):
        expcam.read_circuit(micro, all_kept, coverage=0)
    with pytest.raises(OptionError, match="top-k 0 is out of range"):
        expcam.read_circuit(micro, all_kept, top_k=0)


class TwoPaths(nn.Module):
    """Reads each channel twice, over its mean and over its maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.most = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(kernel([[1, 0, 0], [0, 1, 0]]))
            self.fc.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, -4]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        logits: Tensor = self.fc(torch.cat([self.mean(x), self.most(x)], 1).flatten(1))
        return logits


def test_paths_from_one_source_are_summed() -> None:
    classifier = expcam.Classifier(TwoPaths().eval(), transform=lambda image: torch.zeros(3, 2, 2))
    x = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2).clone()
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x, 1), coverage=1.0)
    edges = circuit.edges.set_index("source_channel")
    # Weights 1 and 3 on activation 1, weights 2 and -4 on activation 2.
    assert edges["score"].to_dict() == pytest.approx({0: 4, 1: 12})
    assert edges["signed"].to_dict() == pytest.approx({0: 4, 1: -4})


def test_an_explanation_of_another_classifier_is_refused(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    other = dataclasses.replace(all_kept, classifier="resnet18")
    message = "the explanation is of classifier `resnet18`, not of `custom`"
    with pytest.raises(OptionError, match=message):
        expcam.read_circuit(micro, other)


@pytest.mark.parametrize("edges", EDGE_SCORES)
def test_a_float64_classifier(
    micro: expcam.Classifier, all_kept: expcam.Explanation, edges: str
) -> None:
    single = expcam.read_circuit(micro, all_kept, coverage=1.0, edges=edges)
    micro.module.double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is followed, not read at its modules
        double = expcam.read_circuit(micro, all_kept, coverage=1.0, edges=edges)
    check_readable(micro, torch.from_numpy(all_kept.input))
    assert set(double.graph.edges) == set(single.graph.edges)
    for edge, data in double.graph.edges.items():
        assert data["score"] == pytest.approx(single.graph.edges[edge]["score"], rel=1e-4)
    assert next(micro.module.parameters()).dtype == torch.float64


def test_inside_inference_mode_it_says_what_is_wrong(
    micro: expcam.Classifier, all_kept: expcam.Explanation
) -> None:
    with torch.inference_mode():
        with pytest.raises(ClassifierError, match=r"read_circuit needs .* torch\.inference_mode"):
            expcam.read_circuit(micro, all_kept)
        with pytest.raises(ClassifierError, match="reading a circuit needs"):
            check_readable(micro, torch.from_numpy(all_kept.input))
