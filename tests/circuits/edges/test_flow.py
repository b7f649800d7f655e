import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from expcam.circuits.edges import flow as fl
from expcam.circuits.edges.flow import whole
from expcam.circuits.edges.tracked import Tracked
from expcam.errors import WiringError


def flow(value: Tensor, source: str = "a") -> fl.Flow:
    """All channels of ``(channels, *positions)``."""
    return fl.whole(source, value, torch.arange(len(value)))


def tensor(each: fl.Flow, count: int) -> Tensor:
    """What a flow adds to its tensor, ``(channels, *positions)``."""
    return torch.einsum("r...,rc->c...", each.value, each.mixed(count).to(each.value))


def test_flows_add_up_through_sum_relu_and_max_pool() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 1, 4, 4, generator=generator) for _ in range(2))
    total = a + b
    gate = (total > 0).float()
    gated = [fl.gated(flow(each), gate) for each in (a, b)]
    assert torch.allclose(gated[0].value + gated[1].value, total.relu())
    pooled, index = F.max_pool2d(total.transpose(0, 1), 2, return_indices=True)
    picked = [fl.picked(flow(each), index.transpose(0, 1)) for each in (a, b)]
    assert torch.allclose(picked[0].value + picked[1].value, pooled.transpose(0, 1))


def test_scales_follow_the_channels_through_a_concatenation() -> None:
    a, b = torch.ones(2, 1, 1), torch.ones(3, 1, 1)
    joined = [fl.shifted(flow(a), 0, 5), fl.shifted(flow(b), 2, 5)]
    assert [each.columns.tolist() for each in joined if each.columns is not None] == [
        [0, 1],
        [2, 3, 4],
    ]
    scaled = fl.scaled(joined[1], torch.tensor([1.0, 2.0, 3.0, -4.0, 5.0]))
    assert scaled.scale.tolist() == [3, 4, 5]
    assert scaled.value.flatten().tolist() == [3, -4, 5]


def test_a_depthwise_kernel_is_a_scale() -> None:
    weight = torch.tensor([[[1.0, -2.0]], [[0.0, 3.0]]])[:, :, None]
    passed = fl.depthwise(
        flow(torch.ones(2, 1, 1, 2)), weight, lambda v, w: F.conv2d(v, w, groups=len(w))
    )
    assert passed.scale.tolist() == [3, 3]
    assert passed.value.flatten().tolist() == [-1, 3]


def test_mixing_and_spreading_give_the_same_tensor() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, 1, 4, generator=generator)
    weight = torch.randn(5, 3, generator=generator)
    mixed = fl.projected(fl.centred(flow(value), 3), weight)
    expected = torch.einsum("oc,c...->o...", weight, value - value.mean(0))
    assert torch.allclose(tensor(mixed, 5), expected, atol=1e-6)
    spread = fl.spread(mixed)
    assert spread.columns is not None
    assert len(spread.columns) == 15
    assert torch.allclose(tensor(spread, 5), expected, atol=1e-6)
    gate = torch.rand(5, 1, 4, generator=generator)
    assert torch.allclose(tensor(fl.gated(mixed, gate), 5), expected * gate, atol=1e-6)
    assert torch.allclose(tensor(fl.shifted(mixed, 2, 8), 8)[2:7], expected, atol=1e-6)
    assert torch.allclose(tensor(fl.scaled_alike(mixed, -2), 5), -2 * expected, atol=1e-6)


def test_rearranging_takes_columns_and_mixes_along() -> None:
    value = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    mixed = fl.projected(flow(value), torch.eye(2))
    # The new tensor shows channel 1 turned around, nothing, and channel 0.
    channels = torch.tensor([1, -1, 0])
    places = torch.tensor([[1, 0], [-1, -1], [0, 1]])
    for each in (flow(value), mixed):
        moved = fl.rearranged(each, channels, places, (2,))
        assert tensor(moved, 3).tolist() == [[4, 3], [0, 0], [1, 2]]


def test_what_spreads_too_far_is_an_error() -> None:
    # Two rows, each in 128 channels of four million positions; none of them is in memory.
    huge = fl.projected(flow(torch.zeros(2, 1).expand(2, 2**22)), torch.ones(2**7, 2))
    with pytest.raises(WiringError, match="the channels of `a` spread too far"):
        fl.spread(huge)


def image() -> Tracked:
    """A tensor (1, 4, 2, 3) whose channels are followed, each element its own number."""
    rows = torch.arange(24.0).view(4, 1, 2, 3)
    return Tracked([whole("a", rows, torch.arange(4))], 4, rows.shape[1:], torch.Size([1, 4, 2, 3]))


def elements(tracked: Tracked) -> torch.Tensor:
    (flow,) = tracked.flows
    assert flow.columns is not None
    result = torch.zeros(tracked.count, *tracked.positions)
    result.index_add_(0, flow.columns, flow.value)
    return result.movedim(0, tracked.axis)


def test_channels_are_found_along_their_new_dimension() -> None:
    last = image().shown(image().numbered().permute(0, 2, 3, 1))
    assert last.natural_axis() == 3
    found = last.along(3)
    whole_tensor = torch.arange(24.0).view(1, 4, 2, 3)
    assert torch.equal(elements(found), whole_tensor.permute(0, 2, 3, 1))
    # Along another dimension every slice holds a part of all channels.
    assert torch.equal(elements(last.along(1)), whole_tensor.permute(0, 2, 3, 1))


def test_flattened_pixels_are_channels_of_their_own() -> None:
    flat = image().shown(image().numbered().flatten(1))
    found = flat.along(1)
    assert torch.equal(elements(found), torch.arange(24.0)[None])
    assert found.flows[0].channels.tolist() == [n // 6 for n in range(24)]


def test_split_channels_are_along_two_dimensions_until_they_meet_again() -> None:
    split = image().numbered().view(1, 2, 2, 2, 3)
    assert image().shown(split).axes() == [1, 2]
    shuffled = image().shown(split.transpose(1, 2).reshape(1, 4, 2, 3))
    found = shuffled.along(1)
    assert elements(found)[0, :, 0, 0].tolist() == [0, 12, 6, 18]


def test_what_is_filled_in_shows_nothing() -> None:
    padded = torch.nn.functional.pad(image().numbered() + 1, (1, 0)) - 1
    found = image().shown(padded).along(1)
    assert elements(found)[0, 1].tolist() == [[0, 6, 7, 8], [0, 9, 10, 11]]
