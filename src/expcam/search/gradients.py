"""Gradients that say more of the classifier, and less of the noise that it was shown.

No gradient goes past a ReLU that is off, nor past any but the largest that a maximum is taken of.
Beside noise, chance decides which those are, so that the gradients of two draws have little in
common. With what is here the backward pass sees a soft step in place of the ReLU's, and part
of a maximum's gradient is spread evenly. What the classifier computes is the same.

Attacks that are to carry over to other classifiers do so: Guo, Li, Chen: *Backpropagating Linearly
Improves Transferability of Adversarial Examples* (NeurIPS 2020); Wang, Tong, He: *Rethinking the
Backward Propagation for Adversarial Transferability* (NeurIPS 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

STEEPNESS = 4.0
"""The soft step is the sigmoid of so many times the ReLU's argument over its root mean square."""
SPREAD = 0.3
"""Share of a maximum's gradient that goes to all alike that it is taken of."""
SAMPLED = 4
"""That mean is over every so manieth row and column."""
TINY = 1e-12
"""Keeps the width finite where all activations are 0."""

RELUS = frozenset({F.relu, torch.relu, torch.Tensor.relu})
RELUS_IN_PLACE = frozenset({torch.relu_, torch.Tensor.relu_})


class SmoothedGradients(TorchFunctionMode):
    """A context in which gradients pass ReLUs and two-dimensional max pooling as said above.

    Only operations that are recorded for a backward pass are touched, and no scripted module is.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What ``func`` gives, with another gradient if it is one of those."""
        kwargs = kwargs or {}
        if args and torch.is_grad_enabled():  # by name alone hardly anyone gives an input
            if func in RELUS:
                return _SoftStep.apply(args[0], bool(kwargs.get("inplace")))
            if func in RELUS_IN_PLACE:
                return _SoftStep.apply(args[0], True)
            if func is F.max_pool2d and args[0].ndim == 4:
                return _Spread.apply(args[0], func(*args, **kwargs))
        return func(*args, **kwargs)


class _SoftStep(torch.autograd.Function):
    """A ReLU whose derivative is a sigmoid; its width follows each image's own activations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        sample = x.detach()[..., ::SAMPLED, ::SAMPLED] if x.ndim > 3 else x.detach()
        one_image = tuple(range(min(1, x.ndim - 1), x.ndim))
        norm = torch.linalg.vector_norm(sample, dim=one_image, keepdim=True).to(x.dtype)
        size = (sample.numel() / norm.numel()) ** 0.5
        ctx.save_for_backward(x * (STEEPNESS * size / (norm + TINY)))
        if inplace:
            ctx.mark_dirty(x)
            return x.relu_()
        return x.relu()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid(), None


class _Spread(torch.autograd.Function):
    """The maxima of an image's windows, part of whose gradient goes to all that lies nearest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, maxima: Tensor) -> Tensor:
        ctx.size = x.shape
        ctx.mark_dirty(maxima)  # a view of it could not be overwritten by what follows
        return maxima

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        share = SPREAD * gradient.numel() / ctx.size.numel()
        evenly = F.interpolate(share * gradient, size=ctx.size[-2:], mode="nearest")
        return evenly, (1 - SPREAD) * gradient
