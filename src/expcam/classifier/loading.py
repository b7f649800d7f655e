"""Load a classifier by name: bundled, any of torchvision's, or weights from a file."""

import difflib
import threading
import urllib.request
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.transforms._presets import ImageClassification

from expcam.classifier.bundled import WEIGHTS_FILE, SmallResNet, bundled_classes, bundled_transform
from expcam.classifier.model import Classifier, Transform
from expcam.errors import ClassifierError, ExpcamWarning

AUTO = "auto"
BUNDLED = "bundled"
AUTO_MODEL = "resnet18"
INCEPTIONS = ("googlenet", "inception_v3")
PROBE_SECONDS = 4.5


def load_classifier(
    model: str | nn.Module = AUTO,
    weights: str | Path | None = "default",
    *,
    transform: Transform | None = None,
    labels: Sequence[str] | None = None,
    device: str | torch.device | None = None,
) -> Classifier:
    """Load a classifier, ready to be explained.

    Args:
        model: ``"auto"`` (torchvision's ResNet-18 where its weights are cached or can be
            downloaded, else the bundled classifier, with an `ExpcamWarning`), ``"bundled"``, the
            name of any torchvision classification model, or your own module.
        weights: ``"default"`` for torchvision's own weights, the path of a ``.safetensors``,
            ``.pt`` or ``.pth`` state dict, or None for random weights.
        transform: Maps a PIL image to the normalised tensor ``(3, H, W)``; where None, the one
            that torchvision publishes for the model.
        labels: Class names in the order of the logits; where None, the model's published ones.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``…; where None, the best one there is, or where
            your own module lies.

    Raises:
        ClassifierError: Unknown model, weights that cannot be had, read or fitted, no such device.
    """
    place = resolve_device(device)
    if isinstance(model, nn.Module):
        own = model if device is None else model.to(place)
        if weights not in ("default", None):
            fit_weights(model, read_state_dict(weights), str(weights), type(model).__name__)
        preset = transform or ImageClassification(crop_size=224)
        return Classifier(own, preset, labels, name=type(model).__name__)
    if model == AUTO and weights != "default":
        raise ClassifierError("weights belong to a model: name it, for instance `resnet18`")
    if model == AUTO:
        model = _best_available()
    if model == BUNDLED:
        if weights != "default":
            raise ClassifierError("the bundled classifier comes with its weights")
        module: nn.Module = SmallResNet(len(bundled_classes()))
        fit_weights(module, read_state_dict(str(WEIGHTS_FILE)), str(WEIGHTS_FILE), BUNDLED)
        names = labels or [name for _, name in bundled_classes()]
        return Classifier(
            module.eval().to(place), transform or bundled_transform(), names, name=BUNDLED
        )
    published = _published_weights(model)
    # Convolutions of small batches are faster with channels last.
    module = _build(model, published, weights).to(memory_format=torch.channels_last)
    # These two undo ImageNet's normalisation inside the module, which then needs no transform.
    own_scale = {"mean": (0.5,) * 3, "std": (0.5,) * 3} if model in INCEPTIONS else {}
    return Classifier(
        module.eval().to(place),
        transform or published.transforms(**own_scale),
        labels or published.meta["categories"],
        name=model,
    )


def classifier_names() -> list[str]:
    """Every name that `load_classifier` knows."""
    return [AUTO, BUNDLED, *list_models(module=torchvision.models)]


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best one there is.

    Raises:
        ClassifierError: There is no such device on this machine.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device is None:
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    absent = place is None or not available.get(place.type, False)
    if place is not None and place.type == "cuda" and not absent:
        absent = (place.index or 0) >= torch.cuda.device_count()
    if place is None or absent:
        here = ", ".join(kind for kind, there in available.items() if there)
        raise ClassifierError(f"no device `{device}` on this machine; it has: {here}")
    return place


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
    """Load ``state`` into ``module``, which must have just these names and shapes.

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


def _best_available() -> str:
    published = _published_weights(AUTO_MODEL)
    if _cached(published) or url_answers(published.url, PROBE_SECONDS):
        return AUTO_MODEL
    warnings.warn(
        f"no network and no cached weights of {AUTO_MODEL}: using the bundled classifier "
        f"({len(bundled_classes())} everyday classes); choose with --model and --weights",
        ExpcamWarning,
        stacklevel=3,
    )
    return BUNDLED


def _published_weights(name: str) -> WeightsEnum:
    known = list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, [AUTO, BUNDLED, *known], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "one of torchvision's, for instance"
        hint += "" if near else " resnet18, squeezenet1_0, convnext_tiny; or bundled"
        raise ClassifierError(f"unknown model `{name}`; {hint}")
    best: WeightsEnum = get_model_weights(name).DEFAULT
    return best


def _build(name: str, published: WeightsEnum, weights: str | Path | None) -> nn.Module:
    if weights == "default":
        if not _cached(published) and not url_answers(published.url, PROBE_SECONDS):
            raise ClassifierError(
                f"the weights of `{name}` are not in torch's cache and cannot be downloaded; "
                f"give a file with --weights, or take --model {BUNDLED}"
            )
        try:
            ready: nn.Module = get_model(name, weights=published)
        except (OSError, RuntimeError, EOFError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ClassifierError(f"cannot load the weights of `{name}`: {reason}") from error
        if name in INCEPTIONS:
            ready.transform_input = False  # type: ignore[assignment]
        return ready
    state = None if weights is None else read_state_dict(weights)
    # They draw their weights slowly and say so, unless told whether to.
    slow = {"init_weights": state is None} if name in INCEPTIONS else {}
    module: nn.Module = get_model(name, weights=None, **slow)
    if state is not None:
        fit_weights(module, state, str(weights), name)
    return module


def _cached(weights: WeightsEnum) -> bool:
    name = str(weights.url).rsplit("/", 1)[-1]
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()


def url_answers(url: str, seconds: float) -> bool:
    """Whether ``url`` sends its first bytes within ``seconds``.

    A thread does the asking, because a name server that never answers is not covered by the
    time limit of a connection.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, headers={"Range": "bytes=0-1023"})
            with urllib.request.urlopen(request, timeout=seconds) as response:
                if response.read(1024):
                    answered.set()
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
