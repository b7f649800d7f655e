"""Read files of weights, without running code in them, and load them into a module."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from expcam.errors import ClassifierError


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pt``/``.pth`` without unpickling code.

    A checkpoint's ``state_dict`` or ``model`` entry and a ``module.`` prefix are unwrapped.

    Raises:
        ClassifierError: No such file, another suffix, or a file that holds no state dict.
    """
    file = Path(path)
    if not file.is_file():
        raise ClassifierError(f"no such weights file: `{file}`")
    suffix = file.suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth"):
        raise ClassifierError(
            f"weights file `{file}` must end in .safetensors, .pt or .pth, not `{suffix}`"
        )
    try:
        if suffix == ".safetensors":
            state: object = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ClassifierError(f"cannot read weights `{file}`: {reason}") from error
    except Exception as error:
        # torch.load raises pickle's errors for files that hold more than tensors.
        raise ClassifierError(f"`{file}` holds more than tensors, which is not loaded") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ClassifierError(f"`{file}` holds no state dict (names and tensors)")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], file: str, model: str) -> None:
    """Load ``state`` into ``module``, whose tensors must have the same names and shapes.

    Raises:
        ClassifierError: Missing, unexpected or differently shaped tensors, each kind counted
            with its first name.
    """
    own = module.state_dict()
    ignored = "num_batches_tracked"
    missing = [name for name in own if name not in state and not name.endswith(ignored)]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    wrong = [f"{len(names)} {kind} ({names[0]}…)" for kind, names in kinds.items() if names]
    if wrong:
        raise ClassifierError(
            f"weights `{file}` do not fit model `{model}`: tensors {', '.join(wrong)}"
        )
    module.load_state_dict(state, strict=False)
