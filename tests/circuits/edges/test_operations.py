"""Each kind of operation by itself: what is followed adds up to what the operation gives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.circuits.edges.flow import whole
from expcam.circuits.edges.operations import Passage, passed
from expcam.circuits.edges.tracked import Tracked, tracked
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.recording import INPUT, record
from expcam.classifier.frozen import frozen

SHAPE = torch.Size([1, 4, 6, 6])


class Between(nn.Module):
    """An operation between a sum, whose channels are no layer's own, and the classes."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 4, 1), nn.LazyLinear(2)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        logits: Tensor = self.fc(self.operation(a + a).flatten(1))
        return logits


def elements(tensor: Tracked) -> Tensor:
    """What the flows of a tensor add up to."""
    along = tensor.along(tensor.natural_axis())
    total = torch.zeros(along.count, *along.positions, dtype=torch.float64)
    for flow in along.flows:
        total += torch.einsum("r...,rc->c...", flow.value, flow.mixed(along.count))
    return total.movedim(0, along.axis)


WEIGHT = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MIXING = torch.randn(5, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SCALE, VARIANCE = torch.tensor([0.5, -1, 2, 3]).double(), torch.tensor([1, 2, 0.5, 4]).double()


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        (Kind.GATE, F.gelu),
        (Kind.GATE, F.relu),
        (Kind.BATCH_NORM, lambda a: F.batch_norm(a, SCALE, VARIANCE, SCALE, VARIANCE)),
        (Kind.NORM, lambda a: F.group_norm(a, 2, SCALE, VARIANCE)),
        (Kind.NORM, lambda a: F.layer_norm(a.permute(0, 2, 3, 1), (4,), SCALE, VARIANCE)),
        (Kind.DEPTHWISE, lambda a: F.conv2d(a, WEIGHT, SCALE, padding=1, groups=4)),
        (Kind.MAX_POOL, lambda a: F.max_pool2d(a, 3, 2, 1)),
        (Kind.AVERAGE, lambda a: F.avg_pool2d(a, 2)),
        (Kind.AVERAGE, lambda a: a.mean((2, 3))),
        (Kind.AVERAGE, lambda a: a.sum(3, keepdim=True)),
        (Kind.SCALE, lambda a: a * SCALE[:, None, None]),
        (Kind.SCALE, lambda a: a / 4),
        (Kind.PRODUCT, lambda a: a * a.mean((2, 3), keepdim=True).sigmoid()),
        (Kind.GATE, lambda a: a.clamp(min=0.1).pow(3)),
        (Kind.GATE, lambda a: (a.relu() + 0).sigmoid()),  # zeros become halves
        (Kind.NORM, lambda a: F.rms_norm(a.permute(0, 2, 3, 1), (4,), SCALE)),
        (Kind.MAX_POOL, lambda a: F.adaptive_max_pool2d(a, 2)),
        (Kind.MAX, lambda a: a.amax((2, 3), keepdim=True)),
        (Kind.MAX, lambda a: a.view(-1, 4, 3, 12).max(2).values),
        (Kind.AVERAGE, lambda a: a - a.mean(1, keepdim=True)),
        (Kind.AVERAGE, lambda a: a.view(-1, 2, 2, 6, 6).sum(1)),
        (Kind.AVERAGE, lambda a: F.interpolate(a, size=(9, 9), mode="bilinear")),
        (Kind.SPATIAL, lambda a: F.linear(a.flatten(2), MIXING, MIXING[:, 0])),
        # Channels pass, the map of their sum is the gate.
        (Kind.PRODUCT, lambda a: a.mean((2, 3), keepdim=True) * a.sum(1, keepdim=True)),
        (Kind.PRODUCT, lambda a: torch.addcmul(SCALE.view(-1, 1, 1), a, a.mean((1, 2), True))),
        (Kind.JOIN, lambda a: torch.stack([a, a.flip(2)]).sum(0)),
        (Kind.REINDEX, lambda a: F.unfold(a, 3, padding=1)),
        (Kind.REINDEX, lambda a: a.unfold(2, 3, 2)),
        (Kind.REINDEX, lambda a: F.pad(a, (1, 0, 2, 0), value=2.0)),
        (
            Kind.MAX_POOL,
            lambda a: F.max_pool2d(F.pad(a, (1, 1, 1, 1), value=-float("inf")), 3, 2),
        ),
        (Kind.FOLD, lambda a: F.fold(F.unfold(a, 3, padding=1), (6, 6), 3, padding=1)),
        (Kind.SUM, lambda a: a - a.flip(3)),
        (Kind.SUM, lambda a: a + SCALE[:, None, None]),
        (Kind.JOIN, lambda a: torch.cat([a, a[:, :2]], 1)),
        (Kind.JOIN, lambda a: torch.cat([a, a.flip(2)], 2)),
        (Kind.REINDEX, lambda a: F.channel_shuffle(a, 2)),
        (Kind.REINDEX, lambda a: F.pad(a, (1, 0, 2, 0))),
        (Kind.REINDEX, lambda a: a.chunk(2, 1)[1]),
    ],
)
def test_what_is_followed_adds_up_to_what_the_operation_gives(
    kind: Kind, operation: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    module = Between(operation).double().eval()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    module(x)
    with frozen(module), torch.no_grad():
        recording = record(module, x)
        steps = recording.wiring.steps
        assert kind in {step.kind for step in steps.values()}
        found: dict[object, Tracked | list[Tracked]] = {}
        for n, step in steps.items():
            if step.kind is Kind.IMAGE:
                colours = whole(INPUT, x.movedim(1, 0), torch.arange(3))
                found[n] = tracked([colours], x.shape, 1)
            elif step.owner == "first":
                rows = module.first(x).movedim(1, 0)
                found[n] = tracked([whole("first", rows, torch.arange(4))], SHAPE, 1)
            elif step.owner is None:
                found[n] = passed(
                    Passage(
                        n=n,
                        step=step,
                        kept=recording.kept[n],
                        before=found,
                        like=x,
                        constants=True,
                    )
                )
        last = steps[recording.wiring.sites["fc"].node].sources[0]
        tensor = found[last]
        assert isinstance(tensor, Tracked)
        expected = operation(2 * module.first(x)).flatten(1)
    assert torch.allclose(elements(tensor).reshape(expected.shape), expected, atol=1e-9)
