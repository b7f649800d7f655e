from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.classifier.outputs import RAW, SIGMOID, SOFTMAX, Ending, logits_among, rows_of
from expcam.errors import ClassifierError

LOGITS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
FEATURES = torch.zeros(2, 5)


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    loss: None = None


@pytest.mark.parametrize(
    ("output", "classes"),
    [
        (LOGITS, None),
        ({"features": FEATURES, "logits": LOGITS}, None),
        ({"head": {"logits": LOGITS}, "map": torch.zeros(2, 3, 4, 4)}, None),
        (Output(FEATURES, LOGITS), None),
        (namedtuple("Output", "features logits")(FEATURES, LOGITS), None),
        ((LOGITS, torch.zeros(2, 3, 4, 4)), None),
        ([LOGITS, LOGITS + 1], None),  # the auxiliary head comes second
        ((FEATURES, LOGITS), 3),
        ({"a": FEATURES, "b": LOGITS}, 3),
        ({"label": torch.zeros(2, 7, dtype=torch.long), "a": LOGITS}, None),
    ],
)
def test_the_logits_among_what_a_module_gives(output: object, classes: int | None) -> None:
    assert logits_among(output, 2, classes) is LOGITS or output is LOGITS


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "it gave NoneType of no tensor"),
        (torch.zeros(2, 3, 4, 4), r"it gave \(2, 3, 4, 4\)"),
        (torch.zeros(2, 3, dtype=torch.long), r"it gave int64 \(2, 3\)"),
        ((FEATURES, LOGITS), r"gives tuple of 0 \(2, 5\), 1 \(2, 3\): give it labels, or wrap it"),
    ],
)
def test_what_has_no_logits_is_named(output: object, message: str) -> None:
    with pytest.raises(ClassifierError, match=message):
        logits_among(output, 2, None)


@pytest.mark.parametrize(
    ("shape", "batch", "expected"),
    [
        ((2, 3), 2, (2, 3)),
        ((2, 3, 1, 1), 2, (2, 3)),
        ((2,), 2, (2, 1)),
        ((), 1, (1, 1)),
        ((3,), 1, (1, 3)),
        ((2, 3, 4), 2, None),
    ],
)
def test_one_row_for_each_image(
    shape: tuple[int, ...], batch: int, expected: tuple[int, ...] | None
) -> None:
    rows = rows_of(torch.zeros(shape), batch)
    assert (None if rows is None else tuple(rows.shape)) == expected


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (nn.Softmax(1), SOFTMAX),
        (nn.LogSoftmax(1), SOFTMAX),
        (lambda z: F.softmax(z, -1), SOFTMAX),
        (lambda z: z.softmax(1).double().view(2, 3), SOFTMAX),
        (nn.Sigmoid(), SIGMOID),
        (lambda z: z.clone().sigmoid_(), SIGMOID),
        (F.logsigmoid, SIGMOID),
        (lambda z: z, RAW),
        (lambda z: z.softmax(1) * 2, RAW),
        (lambda z: (z.softmax(1), z)[1], RAW),
    ],
)
def test_what_a_softmax_or_sigmoid_at_the_end_was_made_of(end: object, kind: str) -> None:
    with Ending() as ending:
        output = end(LOGITS)  # type: ignore[operator]
    logits, found = ending.logits(output)
    assert found == kind
    assert torch.equal(logits, LOGITS if kind != RAW else output)
