"""A module that is run as if frozen, and left as it was found."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expcam.errors import ClassifierError

_turn = threading.RLock()

_TORCHS_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has: weights and submodules, hooks, whether it is trained."""
DEEP = 3
"""So many containers inside one another are put back as they were."""


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Run ``module`` in evaluation mode, its parameters without gradient, for one block.

    Each submodule's ``training`` flag and each parameter's ``requires_grad`` and ``grad`` are
    put back at the end, also after an exception; so is all that it keeps on itself (see `kept`).
    Inside the block no module is run compiled, and tensors that were made in
    ``torch.inference_mode()`` are replaced by such as gradients can pass.

    Blocks of several threads take turns: hooks, modes and tracing would get in one another's way.
    """
    with _turn, kept(module):
        training = [(each, each.training) for each in module.modules()]
        parameters = [
            (each, each.requires_grad, each.grad)
            for each in module.parameters()
            if not each.is_inference()
        ]
        try:
            for each, _ in training:
                each.training = False
                if not isinstance(each, torch.jit.ScriptModule):
                    each._compiled_call_impl = None
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            with _usual_tensors(module):
                yield module
        finally:
            for each, flag in training:
                each.training = flag
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Put back what a module's parts keep on themselves, at the end of the block.

    Attributes and buffers, and what is in them: what a module makes at its first call is gone
    then. Made in a block that traces, or without gradients, it would be of no use outside.
    """
    with ExitStack() as stack:
        for each in module.modules():
            if not isinstance(each, torch.jit.ScriptModule):
                own = vars(each)
                stack.callback(_attributes(own))
                stack.callback(_contents(own["_buffers"], DEEP))
        yield


def _attributes(own: dict[str, Any]) -> Callable[[], None]:
    """What puts back the attributes of a module that are not torch's own."""
    before = {name: value for name, value in own.items() if name not in _TORCHS_OWN}
    restores = [_contents(value, DEEP) for value in before.values()]

    def restore() -> None:
        for name in own.keys() - before.keys() - _TORCHS_OWN:
            del own[name]
        own.update(before)
        for each in restores:
            each()

    return restore


def _contents(value: object, depth: int) -> Callable[[], None]:
    """What puts back the numbers of a tensor, or what is in a container."""
    if isinstance(value, Tensor) and not (value.is_inference() or value.is_meta):
        return _numbers(value)
    if not depth or not isinstance(value, dict | list | set):
        return lambda: None
    before = value.copy()
    inner: Any = value.values() if isinstance(value, dict) else value
    restores = [_contents(each, depth - 1) for each in inner]

    def restore() -> None:
        if not _same(value, before):
            value.clear()
            if isinstance(value, list):
                value.extend(before)
            else:
                value.update(before)
        for each in restores:
            each()

    return restore


def _numbers(tensor: Tensor) -> Callable[[], None]:
    before, version = tensor.detach().clone(), tensor._version

    def restore() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.copy_(before)

    return restore


def _same(value: Any, before: Any) -> bool:
    """Whether a container still holds the same objects; tensors are not compared by number."""
    if isinstance(value, set):
        return bool(value == before)
    if isinstance(value, list):
        return len(value) == len(before) and all(map(_identical, value, before))
    return list(value) == list(before) and all(value[key] is before[key] for key in before)


def _identical(one: object, other: object) -> bool:
    return one is other


@contextmanager
def _usual_tensors(module: nn.Module) -> Iterator[None]:
    """Replace tensors through which no gradient can pass, or more than is wanted, for one block.

    Those were made in ``torch.inference_mode()``, or from weights that are trained. `kept` puts
    back all but parameters.
    """
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for each in module.modules():
            if not isinstance(each, torch.jit.ScriptModule):
                own = vars(each)
                _make_usual(own, DEEP)
                _make_usual(own["_buffers"], DEEP)
                for name, value in own["_parameters"].items():
                    if value is not None and value.is_inference():
                        replaced.append((own["_parameters"], name, value))
        for parameters, name, value in replaced:
            parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=False)
        yield
    finally:
        for parameters, name, value in replaced:
            parameters[name] = value


def _make_usual(container: dict[Any, Any] | list[Any], depth: int) -> None:
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for key, value in list(items):
        if isinstance(value, nn.Parameter):
            continue
        if isinstance(value, Tensor) and (value.is_inference() or value.grad_fn is not None):
            container[key] = value.detach().clone()
        elif depth and isinstance(value, dict | list) and key not in _TORCHS_OWN:
            _make_usual(value, depth - 1)


def require_autograd(what: str) -> None:
    """Raise an error that names ``what``, where no gradient can be taken.

    `torch.enable_grad` undoes `torch.no_grad`, but not `torch.inference_mode`.

    Raises:
        ClassifierError: Inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise ClassifierError(f"{what} needs gradients: call it outside of torch.inference_mode()")
