"""Load a classifier by name: bundled, any of torchvision's, or weights from a file."""

import difflib
import threading
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models
from torchvision.transforms._presets import ImageClassification

from expcam.classifier.bundled import WEIGHTS_FILE, SmallResNet, bundled_classes, bundled_transform
from expcam.classifier.checkpoints import fit_weights, read_state_dict
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
        device: ``"cpu"``, ``"cuda"``, ``"mps"``…; where None, the best one there is. Your own
            module stays where it is, unless you name a device: then it is moved there.

    Raises:
        ClassifierError: Unknown model, weights that cannot be had, read or fitted, no such device.
    """
    place = resolve_device(device)
    if isinstance(model, nn.Module):
        name = type(model).__name__
        if weights not in ("default", None):
            fit_weights(model, read_state_dict(weights), str(weights), name)
        if device is not None:
            model.to(place)
        return Classifier(model, transform or ImageClassification(crop_size=224), labels, name=name)
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
