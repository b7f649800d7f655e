"""A module that is run as if frozen, and left as it was found."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from expcam.errors import ClassifierError


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Run ``module`` in evaluation mode, its parameters without gradient, for one block.

    Each submodule's ``training`` flag and each parameter's ``requires_grad`` and ``grad`` are
    put back at the end, also after an exception.
    """
    training = [(each, each.training) for each in module.modules()]
    parameters = [(each, each.requires_grad, each.grad) for each in module.parameters()]
    try:
        for each, _ in training:
            each.training = False
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
        yield module
    finally:
        for each, flag in training:
            each.training = flag
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def require_autograd(what: str) -> None:
    """Raise an error that names ``what``, where no gradient can be taken.

    `torch.enable_grad` undoes `torch.no_grad`, but not `torch.inference_mode`.

    Raises:
        ClassifierError: Inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise ClassifierError(f"{what} needs gradients: call it outside of torch.inference_mode()")
