"""Weights from a file, in any of the shapes in which training frameworks write them.

Nothing is unpickled: a file holds tensors and plain values, or is refused.
"""

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from expcam.errors import ClassifierError, ExpcamWarning

WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What wrappers put into the names of tensors, anywhere."""
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged)(?:[._]|$)")
"""What names a running average of the weights."""
BOOKKEEPING = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
"""Last parts of names of tensors that no output depends on."""
DEEP = 3
"""So many dictionaries inside one another are looked through."""
SAVE = 'torch.save(model.state_dict(), "weights.pt")'

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Fit:
    """How the names in a dictionary of tensors fit those of a module.

    Attributes:
        source: Where the tensors are: the keys that lead to their dictionary, and the beginning
            that their names have in common.
        tensors: Those that the module has, by the module's names.
        missing: Names that are the module's alone.
        unexpected: Names that are the dictionary's alone.
    """

    source: str
    tensors: dict[str, Tensor]
    missing: Sequence[str]
    unexpected: Sequence[str]

    def same_as(self, other: "Fit") -> bool:
        """Whether both give the module the same weights."""
        return self.tensors.keys() == other.tensors.keys() and all(
            torch.equal(value, other.tensors[name]) for name, value in self.tensors.items()
        )


@dataclass(frozen=True)
class Checkpoint:
    """What is in a file of weights.

    Attributes:
        file: Its path.
        states: Each dictionary of tensors in it, by the keys that lead there.
    """

    file: Path
    states: Mapping[str, StateDict]

    def fitting(
        self, module: nn.Module, model: str, training_only: tuple[str, ...] = ()
    ) -> dict[str, Tensor]:
        """The tensors that the module's names stand for, by these names.

        A beginning that all names have in common (``model.``, ``module.``), in the file or in the
        module, is no part of the name. Of weights and their running average the average is taken,
        with a warning. Shapes are not compared.

        Args:
            module: What the weights are for.
            model: What it is called.
            training_only: Beginnings of names that the file may have and the module lacks.

        Raises:
            ClassifierError: No dictionary fits, each kind of misfit counted with its first name;
                or several do.
        """
        own = module.state_dict(keep_vars=True)
        fits = [
            fit
            for place, state in self.states.items()
            for beginning in _common_beginnings(own)
            for fit in _fits(place, state, own, beginning, training_only)
        ]
        complete: list[Fit] = []
        for each in fits:
            known = any(each.same_as(other) for other in complete)
            if not (each.missing or each.unexpected or known):
                complete.append(each)
        if not complete:
            closest = max(fits, key=lambda each: (len(each.tensors), -len(each.unexpected)))
            kinds = {"missing": closest.missing, "unexpected": closest.unexpected}
            raise ClassifierError(_misfit(self.file, model, kinds))
        if len(complete) == 1:
            return complete[0].tensors
        averages = [each for each in complete if AVERAGED.search(each.source)]
        if len(averages) != 1:
            sources = ", ".join(f"`{each.source}`" for each in complete)
            raise ClassifierError(
                f"`{self.file}` holds several weights for model `{model}`: {sources}; "
                "save those that are meant in a file of their own"
            )
        (average,) = averages
        warnings.warn(
            f"`{self.file.name}` holds several weights: the average, `{average.source}`, is taken",
            ExpcamWarning,
            stacklevel=2,
        )
        return average.tensors

    def load_into(self, module: nn.Module, tensors: StateDict, model: str) -> None:
        """Give a module the tensors that `fitting` found.

        Raises:
            ClassifierError: One has another shape.
        """
        own = module.state_dict()
        reshaped = [
            f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
            for name, value in tensors.items()
            if value.shape != own[name].shape
        ]
        if reshaped:
            raise ClassifierError(_misfit(self.file, model, {"of another shape": reshaped}))
        module.load_state_dict(tensors, strict=False)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of safetensors, or one that `torch.save` wrote, whatever it is called.

    Raises:
        ClassifierError: No such file, or none that holds tensors alone.
    """
    file = Path(path)
    if not file.is_file():
        raise ClassifierError(f"no such weights file: `{file}`")
    with file.open("rb") as opened:
        start = opened.read(9)
    if _is_torchscript(file):
        raise ClassifierError(
            f"`{file}` is a TorchScript program: load it with torch.jit.load and give the module"
        )
    try:
        if is_zipfile(file) or start[:1] == b"\x80":
            content = torch.load(file, map_location="cpu", weights_only=True)
        elif start[8:] == b"{":
            content = safetensors.torch.load_file(file)
        else:
            raise ClassifierError(
                f"weights file `{file}` is neither safetensors nor written by torch.save"
            )
    except pickle.UnpicklingError as error:
        raise ClassifierError(
            f"`{file}` holds more than tensors{_others_in(file)}, which is not loaded; save the "
            f"weights alone: {SAVE}"
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ClassifierError(f"cannot read weights `{file}`: {reason}") from error
    states = dict(_states(content))
    if not states:
        raise ClassifierError(f"`{file}` holds no state dict (names and tensors); save one: {SAVE}")
    return Checkpoint(file, states)


def fit_weights(module: nn.Module, path: str | Path, model: str) -> None:
    """Load a file of weights into a module.

    Raises:
        ClassifierError: The file cannot be read or does not fit.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.load_into(module, checkpoint.fitting(module, model), model)


def other_head(module: nn.Module, tensors: StateDict) -> int | None:
    """The number of classes that tensors are for, where it is not the module's own.

    They differ from the module's in the first dimension of all that are of another shape.
    """
    own = module.state_dict()
    changed = [
        (own[name].shape, value.shape)
        for name, value in tensors.items()
        if own[name].shape != value.shape
    ]
    sizes = {(before[:1], after[:1]) for before, after in changed}
    if len(sizes) != 1 or any(before[1:] != after[1:] for before, after in changed):
        return None
    ((_, after),) = sizes
    return after[0] if after else None


def _states(content: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, StateDict]]:
    """Each dictionary of named tensors in what was read, by the keys that lead there."""
    if not isinstance(content, Mapping) or depth > DEEP:
        return
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _states(value, f"{place}.{key}" if place else str(key), depth + 1)


def _common_beginnings(names: Mapping[str, object]) -> Iterator[str]:
    """Nothing, then what all names begin with, one part more at a time: ``1.``, ``1.net.``."""
    parts = [WRAPPERS.sub("", name).split(".")[:-1] for name in names]
    beginning = ""
    yield beginning
    for same in zip(*parts, strict=False):
        if len(set(same)) > 1:
            return
        beginning += f"{same[0]}."
        yield beginning


def _fits(
    place: str,
    state: StateDict,
    own: StateDict,
    own_beginning: str,
    training_only: tuple[str, ...],
) -> Iterator[Fit]:
    """How a dictionary fits, for each beginning that most of the names it shares have."""
    ours = {WRAPPERS.sub("", name).removeprefix(own_beginning): name for name in own}
    theirs = {WRAPPERS.sub("", name): value for name, value in state.items()}
    shared: Counter[str] = Counter()
    for name in theirs:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in ours:
                shared["".join(f"{part}." for part in parts[:cut])] += 1
    most = max(shared.values(), default=0)
    for beginning in [each for each in shared if shared[each] == most] or [""]:
        named = {
            name.removeprefix(beginning): value
            for name, value in theirs.items()
            if name.startswith(beginning)
        }
        tensors = {ours[name]: value for name, value in named.items() if name in ours}
        tied = {id(own[name]) for name in tensors}
        yield Fit(
            source=".".join(filter(None, (place, beginning.rstrip(".")))),
            tensors=tensors,
            missing=[
                name
                for short, name in ours.items()
                if not (name in tensors or id(own[name]) in tied or short.endswith(BOOKKEEPING))
            ],
            unexpected=[
                name
                for name in named
                if not (name in ours or name.endswith(BOOKKEEPING))
                and not name.startswith(training_only)
            ],
        )


def _misfit(file: Path, model: str, kinds: Mapping[str, Sequence[str]]) -> str:
    """Tells what does not fit, each kind counted with its first name."""
    counted = [f"{len(names)} {kind} ({names[0]}…)" for kind, names in kinds.items() if names]
    return f"weights `{file}` do not fit model `{model}`: tensors {', '.join(counted)}"


def _is_torchscript(file: Path) -> bool:
    if not is_zipfile(file):
        return False
    with ZipFile(file) as archive:
        return any(Path(each).name == "constants.pkl" for each in archive.namelist())


def _others_in(file: Path) -> str:
    """What a file holds beside tensors, in brackets; nothing where that cannot be told."""
    if not is_zipfile(file):
        return ""
    names = sorted(get_unsafe_globals_in_checkpoint(file))
    return f" ({', '.join(names[:3])}{'…' if names[3:] else ''})" if names else ""
