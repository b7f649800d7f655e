"""From whatever a module gives to its logits: one tensor ``(batch, classes)``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from expcam.errors import ClassifierError

NAMES = (
    *("logits", "logit", "pred_logits", "out", "output", "outputs", "prediction", "predictions"),
    *("pred", "preds", "scores", "probabilities", "probs"),
)
"""What the logits are called where a module gives several things, the surest name first."""

SOFTMAX, SIGMOID, RAW = "softmax", "sigmoid", "raw"
"""What a module ends in."""

ENDINGS: Mapping[Callable[..., Any], str] = {
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax), SOFTMAX),
    **dict.fromkeys((F.log_softmax, torch.log_softmax, Tensor.log_softmax), SOFTMAX),
    **dict.fromkeys((torch.special.log_softmax,), SOFTMAX),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.special.expit), SIGMOID),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_, F.logsigmoid), SIGMOID),
}
"""Functions from logits to probabilities or to their logarithms."""
PASSING = frozenset(
    {
        *(Tensor.float, Tensor.double, Tensor.to, Tensor.type, Tensor.clone, Tensor.contiguous),
        *(Tensor.view, Tensor.reshape, Tensor.flatten, Tensor.squeeze, Tensor.unsqueeze),
        *(torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.clone),
    }
)
"""What may follow them: it changes neither the numbers nor their order."""


class Ending(TorchFunctionMode):
    """A context that remembers what the last softmax or sigmoid was made of."""

    def __init__(self) -> None:
        super().__init__()
        self._kind = RAW
        self._result: Tensor | None = None
        self._logits: Tensor | None = None

    def logits(self, output: Tensor) -> tuple[Tensor, str]:
        """The logits behind a module's output, and what it ends in."""
        if self._logits is None or output is not self._result:
            return output, RAW
        return self._logits, self._kind

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What ``func`` gives."""
        kwargs = kwargs or {}
        if func in ENDINGS:
            logits = args[0] if args else kwargs["input"]
            overwrites = func in (torch.sigmoid_, Tensor.sigmoid_)
            self._kind, self._logits = ENDINGS[func], logits.clone() if overwrites else logits
            self._result = func(*args, **kwargs)
            return self._result
        result = func(*args, **kwargs)
        if func in PASSING and args and args[0] is self._result:
            self._result = result
        return result


def logits_among(output: object, batch: int, classes: int | None) -> Tensor:
    """The tensor of logits in what a module gave, as it is there.

    A tensor is taken as it is. In a dictionary, tuple, dataclass or other object one of `NAMES`
    is looked for, then the only tensor with a row for each image. Of several those count that have
    as many columns as there are ``classes``, and of those that are alike the first: auxiliary
    heads come behind the main one. ``batch`` images were run.

    Raises:
        ClassifierError: There is none, or it cannot be told which.
    """
    rows = [(name, each) for name, each in _tensors(output) if rows_of(each, batch) is not None]
    if not rows:
        raise ClassifierError(f"must give logits (batch, classes), it gave {_described(output)}")
    for name in NAMES:
        named = [each for path, each in rows if path.rpartition(".")[2].lower() == name]
        if named:
            return named[0]
    widths = {_width(each, batch) for _, each in rows}
    if len(widths) > 1 and classes is not None:
        widths = {classes}
    fitting = [each for _, each in rows if _width(each, batch) in widths]
    if not fitting or len(widths) > 1:
        raise ClassifierError(
            f"gives {_described(output)}: give it labels, or wrap it in a module that gives the "
            "logits alone"
        )
    return fitting[0]


def rows_of(tensor: Tensor, batch: int) -> Tensor | None:
    """A tensor as one row for each image; None where it is none.

    Maps of one pixel count, and so does what was squeezed.
    """
    if not tensor.is_floating_point():
        return None
    if tensor.ndim < 2:
        # Of a batch of one nothing tells whether images or classes were squeezed away.
        return tensor.reshape(1, -1) if batch == 1 else tensor.reshape(-1, 1)
    return tensor.flatten(1) if all(side == 1 for side in tensor.shape[2:]) else None


def _width(tensor: Tensor, batch: int) -> int:
    rows = rows_of(tensor, batch)
    assert rows is not None
    return rows.shape[1]


def _tensors(output: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in an output, each by the names or numbers that lead to it."""
    if isinstance(output, Tensor):
        yield path, output
        return
    for name, part in _parts(output).items():
        yield from _tensors(part, f"{path}.{name}" if path else str(name))


def _parts(output: object) -> Mapping[Any, object]:
    if isinstance(output, Mapping):
        return output
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        named: Mapping[Any, object] = output._asdict()
        return named
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    return getattr(output, "__dict__", {})


def _described(output: object) -> str:
    """What a module gave, in words: its type, and the shapes of its tensors."""
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f"{str(output.dtype)[6:]} "
        return f"{kind}{tuple(output.shape)}"
    tensors = [f"{path} {tuple(each.shape)}" for path, each in _tensors(output)]
    return f"{type(output).__name__} of {', '.join(tensors) or 'no tensor'}"
