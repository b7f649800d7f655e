"""On the micro network of `conftest`: its logits on (1, 2, 3) are (1, 8)."""

import pytest
import torch

import expcam
from expcam.errors import OptionError


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
