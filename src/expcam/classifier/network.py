"""A module of any kind, run so that it takes images and gives plain logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expcam.classifier.outputs import RAW, SOFTMAX, Ending, logits_among, rows_of
from expcam.errors import ClassifierError

TINY = 1e-30
"""The least probability of which a logarithm is taken."""
SUMS_TO_ONE = 1e-2
"""How far from 1 probabilities may add up to, in half precision."""


class Sides(nn.Module):
    """Two logits of one: it speaks for the second class and against the first.

    Their softmax is the sigmoid of the one. As a layer with weights it has edges in a circuit.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([[-0.5], [0.5]]))

    def forward(self, logit: Tensor) -> Tensor:
        """Logits ``(batch, 2)`` of ``(batch, 1)``."""
        return F.linear(logit, self.weight.to(logit))


class Reader:
    """Turns what a module gives into logits ``(batch, classes)``.

    Args:
        name: What the classifier is called.
        classes: How many labels there are; None where that is not known.

    Attributes:
        ending: What the module ends in, once it has run: `SOFTMAX`, `SIGMOID` or `RAW`.
        one_logit: Whether it gives a single number for each image, once it has run.
    """

    def __init__(self, name: str, classes: int | None) -> None:
        self._name, self._classes = name, classes
        self._sides = Sides()
        self._probabilities = False
        self.ending: str | None = None
        self.one_logit = False

    def __call__(self, run: Callable[[Tensor], object], x: Tensor) -> Tensor:
        """Logits of normalised images ``(batch, channels, H, W)``.

        Raises:
            ClassifierError: What the module gives are no logits.
        """
        with Ending() as ending:
            output = run(x.clone())  # it may write to its input
        try:
            found = logits_among(output, x.shape[0], self._classes)
        except ClassifierError as error:
            raise ClassifierError(f"classifier `{self._name}` {error}") from None
        logits, kind = ending.logits(found)
        logits, kind = self._rows(found, logits, kind, x.shape[0])
        if self.ending is None:
            self._learn(logits, kind)
        if self._probabilities:
            logits = logits.clamp_min(TINY).log()
        return self._sides(logits) if self.one_logit else logits

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Layers that it adds to the module's own."""
        return {"sides": self._sides} if self.one_logit else {}

    @staticmethod
    def _rows(output: Tensor, logits: Tensor, kind: str, batch: int) -> tuple[Tensor, str]:
        """The rows of the logits; those of the output where the two do not go together."""
        rows, given = rows_of(logits, batch), rows_of(output, batch)
        assert given is not None
        if rows is None or rows.shape[1] != given.shape[1]:
            return given, RAW
        return rows, kind

    def _learn(self, logits: Tensor, kind: str) -> None:
        self.one_logit = logits.shape[1] == 1
        if kind == RAW and not self.one_logit:
            # An average of several softmaxes, for instance, leaves no trace but its sum.
            self._probabilities = _are_probabilities(logits)
            if self._probabilities or _are_probabilities(logits.exp()):
                kind = SOFTMAX
        self.ending = kind


def _are_probabilities(rows: Tensor) -> bool:
    rows = rows.detach().float()
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < SUMS_TO_ONE).all())


def unwrapped(module: nn.Module) -> nn.Module:
    """The module behind `torch.compile`, `DataParallel` and others that run it as it is."""
    wrappers = (
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    while True:
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        elif isinstance(module, wrappers):
            module = module.module
        else:
            return module


def network_of(module: nn.Module, reader: Reader) -> nn.Module:
    """The same module, with its own names, weights and state, that gives plain logits.

    Only what calling it gives is another: its class is a subclass of the module's, and both look
    at the same attributes. A scripted module, which has no class of its own, is wrapped.
    """
    if is_scripted(module):
        return _Scripted(module, reader)
    kind: Any = type(module)

    class Network(kind):  # type: ignore[misc]
        @property
        def _modules(self) -> dict[str, nn.Module | None]:
            own: dict[str, nn.Module | None] = vars(self)["_modules"]
            return {**own, **reader.parts} if reader.parts else own

        def __getattr__(self, name: str) -> Any:
            return reader.parts[name] if name in reader.parts else super().__getattr__(name)

        def __call__(self, x: Tensor) -> Tensor:
            return reader(super().__call__, x)

    Network.__name__ = Network.__qualname__ = kind.__name__
    network: nn.Module = object.__new__(Network)
    network.__dict__ = module.__dict__
    return network


class _Scripted(nn.Module):
    """Gives what a scripted module's last sigmoid is made of: nobody sees it run."""

    def __init__(self, module: Any, reader: Reader) -> None:
        super().__init__()
        self.module = module
        self._reader = reader
        outputs = list(module.inlined_graph.outputs())
        self._last = [each.node().kind() for each in outputs]

    def forward(self, x: Tensor) -> Tensor:
        return self._reader(self._run, x)

    def _run(self, x: Tensor) -> Any:
        output = self.module(x)
        if self._last != ["aten::sigmoid"]:
            return output
        # The sigmoid of this is what was given; `Reader` sees it.
        return torch.sigmoid(torch.logit(output, eps=torch.finfo(output.dtype).eps))


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript's, which runs without Python."""
    return isinstance(module, torch.jit.ScriptModule)


def check_initialised(module: nn.Module, name: str) -> None:
    """Raise `ClassifierError` where a lazy layer has no weights yet."""
    if any(nn.parameter.is_lazy(each) for each in (*module.parameters(), *module.buffers())):
        raise ClassifierError(
            f"classifier `{name}` has lazy layers without weights: run it on an image first"
        )
