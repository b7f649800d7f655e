import torch
from torch.nn import functional as F

from expcam.circuits import flows as fl


def test_flows_add_up_through_sum_relu_and_max_pool() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 2, 4, 4, generator=generator) for _ in range(2))
    both = [*fl.whole("a", a), *fl.whole("b", b)]
    total = a + b
    gated = fl.gated(both, total, total.relu())
    assert torch.allclose(gated[0].value + gated[1].value, total.relu())
    pooled = fl.max_pooled(both, total, kernel_size=2)
    assert torch.allclose(pooled[0].value + pooled[1].value, F.max_pool2d(total, 2))


def test_concatenation_offsets_and_scaling_follows_the_channels() -> None:
    a, b = torch.ones(1, 2, 1, 1), torch.ones(1, 3, 1, 1)
    joined = fl.concatenated([(fl.whole("a", a), 2), (fl.whole("b", b), 3)])
    assert [flow.span for flow in joined] == [slice(0, 2), slice(2, 5)]
    scaled = fl.scaled(joined, torch.tensor([1.0, 2.0, 3.0, -4.0, 5.0]))
    assert scaled[1].scale.tolist() == [3, 4, 5]
    assert scaled[1].value.flatten().tolist() == [3, -4, 5]


def test_a_depthwise_kernel_is_a_scale() -> None:
    weight = torch.tensor([[[1.0, -2.0]], [[0.0, 3.0]]])[:, :, None]
    value = torch.ones(1, 2, 1, 2)
    passed = fl.depthwise(fl.whole("a", value), weight, lambda v, w: F.conv2d(v, w, groups=2))
    assert passed[0].scale.tolist() == [3, 3]
    assert passed[0].value.flatten().tolist() == [-1, 3]


def test_flattening_keeps_the_pixels_of_a_channel_together() -> None:
    value = torch.arange(8.0).view(1, 2, 2, 2)
    assert fl.flattened(fl.whole("a", value))[0].value.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
