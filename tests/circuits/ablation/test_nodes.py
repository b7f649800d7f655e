"""On the micro network of `conftest`: its logits on (1, 2, 3) are (1, 8)."""

import pytest
import torch
from torch import nn

import expcam
from expcam.circuits.ablation.nodes import Nodes, weight_norms
from expcam.circuits.trace.recording import measure
from expcam.classifier.frozen import frozen
from expcam.errors import ClassifierError, OptionError
from tests.circuits.blocks import COLOURS


def logits(classifier: expcam.Classifier) -> list[float]:
    x = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2)
    with torch.no_grad():
        return [round(value, 3) for value in classifier.logits(x[None])[0].tolist()]


def test_without_a_channel_by_hand(micro: expcam.Classifier) -> None:
    assert logits(micro) == [1.0, 8.0]
    # Without a1's first channel conv2 gives (2, 4), its batch norm (1, -3), the sum is (1, 1).
    with expcam.ablate(micro, [("conv1", 0)]) as ablated:
        assert logits(ablated) == [0.0, 2.5]
        assert logits(micro) == [1.0, 8.0]
    # Without a2's second channel the sum is (4, 4); with 1 in its place (4, 5).
    with expcam.ablate(micro, [("conv2", 1)]) as ablated:
        assert logits(ablated) == [0.0, 10.0]
    with expcam.ablate(micro, [("conv2", 1)], replacement=1.0) as ablated:
        assert logits(ablated) == [-1.0, 12.0]
    assert logits(micro) == [1.0, 8.0]


def test_the_classifier_is_left_as_it_was(micro: expcam.Classifier) -> None:
    micro.module.train()
    with pytest.raises(ZeroDivisionError), expcam.ablate(micro, [("conv1", 0)]):
        raise ZeroDivisionError
    assert all(each.training for each in micro.module.modules())
    assert all(p.requires_grad for p in micro.module.parameters())


class SequenceFirst(nn.Module):
    """Tokens before the batch, as CLIP has it; and heads that lie side by side in the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = self.embed(x).flatten(2).permute(2, 0, 1)
        length, batch, _ = s.shape
        q, k, v = (
            part.reshape(length, batch * 2, 4).transpose(0, 1) for part in self.qkv(s).chunk(3, -1)
        )
        heads = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v)
        s = s + self.out(heads.transpose(0, 1).reshape(length, batch, 8))
        s = s + self.down(self.up(s).relu())
        logits: torch.Tensor = self.head(s.mean(0))
        return logits


def test_choices_per_image_where_the_batch_is_not_first() -> None:
    x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
    classifier = expcam.Classifier(SequenceFirst().eval(), transform=lambda image: x)
    subject = Nodes(classifier, classifier.module, x, 1)
    assert subject.counts == {"embed": 8, "attention": 2, "up": 16}
    keeps = []
    for name, channel in (("embed", 3), ("attention", 1), ("up", 7), ("up", 2)):
        keep = {n: torch.ones(count, dtype=torch.bool) for n, count in subject.counts.items()}
        keep[name][channel] = False
        keeps.append(keep)
    logits_of = subject.against([], averaged=False)
    together = logits_of(keeps)
    alone = torch.cat([logits_of([keep]) for keep in keeps])
    assert torch.allclose(together, alone, atol=1e-6)
    assert len({tuple(row.tolist()) for row in together}) > 1
    # A head is what its features say: written by hand, without the second one.
    module = classifier.module
    with expcam.ablate(classifier, [("attention", 1)]) as ablated, torch.no_grad():
        found = ablated.logits(torch.stack([x, 2 * x]))
        module.out.weight[:, 4:] = 0
        assert torch.allclose(found, module(torch.stack([x, 2 * x])), atol=1e-6)


def test_images_of_another_size(bundled: expcam.Classifier) -> None:
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with expcam.ablate(bundled, [("layer1.0.conv1", 3)]) as ablated, torch.no_grad():
        assert ablated.logits(x).shape == (2, 103)


def test_what_does_not_exist(micro: expcam.Classifier) -> None:
    with (
        pytest.raises(OptionError, match=r"layer `conv9` has no channels .* conv1, conv2"),
        expcam.ablate(micro, [("conv9", 0)]),
    ):
        pass
    with (
        pytest.raises(OptionError, match="layer `conv2` has no channel 2: it has 0 to 1"),
        expcam.ablate(micro, [("conv2", 2)]),
    ):
        pass


def test_a_real_channel_that_matters_and_one_that_does_not(
    bundled: expcam.Classifier, cat: expcam.Explanation, cat_circuit: expcam.Circuit
) -> None:
    x = torch.from_numpy(cat.input)[None]
    last = cat_circuit.nodes[cat_circuit.nodes["kind"] == "channel"].query("depth == depth.max()")
    strongest = last.loc[last["relevance"].idxmax()]
    with torch.no_grad():
        before = bundled.logits(x)[0, cat.label]
        with expcam.ablate(bundled, [(strongest["layer"], int(strongest["channel"]))]) as ablated:
            after = ablated.logits(x)[0, cat.label]
        with expcam.ablate(bundled, []) as untouched:
            assert torch.equal(untouched.logits(x)[0, cat.label], before)
    assert abs(float(after - before)) > 0.01


def test_choices_of_channels_run_together_as_they_would_alone(micro: expcam.Classifier) -> None:
    subject = Nodes(micro, micro.module, COLOURS[0], 1)
    assert subject.counts == {"conv1": 2, "conv2": 2}
    keeps = [
        {"conv1": torch.tensor(first), "conv2": torch.tensor(second)}
        for first in ([True, False], [True, True])
        for second in ([False, True], [True, True])
    ]
    logits_of = subject.against([], averaged=False)
    together = logits_of(keeps)
    assert torch.equal(together, torch.cat([logits_of([keep]) for keep in keeps]))
    assert torch.allclose(together[-1], subject.whole)
    # Another reference is another test, and leaves the first as it was.
    other = subject.against([2 * COLOURS[0]], averaged=True)
    assert not torch.equal(other(keeps[:1]), together[:1])
    assert torch.equal(logits_of(keeps), together)


def test_single_channels_at_zero_share_what_comes_before(micro: expcam.Classifier) -> None:
    nodes = [("conv2", 1), ("conv1", 0), ("conv1", 1)]
    with frozen(micro.network) as module:
        found = Nodes(micro, module, COLOURS[0], 1).without_each(nodes)
    for node, row in zip(nodes, found, strict=True):
        with expcam.ablate(micro, [node]) as ablated, torch.no_grad():
            torch.testing.assert_close(row, ablated.logits(COLOURS[0][None])[0])


def test_norms_of_weights_by_hand(micro: expcam.Classifier) -> None:
    with frozen(micro.module) as module:
        found = measure(module, COLOURS, 1, lambda _, __: torch.arange(0))
        # Weights (1, 0, 0) and (0, -1, 1) by batch norms of 2 and 4.
        assert torch.allclose(
            weight_norms(found.recording, "conv1"), torch.tensor([2.0, 8.0]), rtol=1e-4
        )


def test_a_float64_classifier(micro: expcam.Classifier) -> None:
    micro.module.double()
    with expcam.ablate(micro, [("conv1", 0)]) as ablated:
        assert logits(ablated) == [0.0, 2.5]


def test_inside_inference_mode_it_says_what_is_wrong(micro: expcam.Classifier) -> None:
    with (
        torch.inference_mode(),
        pytest.raises(ClassifierError, match=r"ablate needs .* torch\.inference_mode\(\)"),
        expcam.ablate(micro, []),
    ):
        pass
