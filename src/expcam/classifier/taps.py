"""Inner activations of a classifier, by module name, with hooks that leave no trace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from expcam.classifier.model import Classifier
from expcam.errors import ClassifierError


@contextmanager
def listening(
    module: nn.Module, names: Sequence[str], hear: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call ``hear(name, output)`` when a named submodule has given a tensor, inside the block.

    Raises:
        ClassifierError: A name that is no submodule.
    """
    modules = dict(module.named_modules())
    with ExitStack() as hooks:
        for name in names:
            if name not in modules:
                top = ", ".join(child for child, _ in module.named_children())
                raise ClassifierError(f"layer `{name}` not found; the classifier has: {top}")

            def hook(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor):
                    hear(name, output)

            hooks.callback(modules[name].register_forward_hook(hook).remove)
        yield


def with_outputs(
    module: nn.Module, names: Sequence[str], run: Callable[[], Tensor], images: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a run gives, and what named submodules gave in it, a row for each image.

    A module that takes a batch apart calls them on one image after the other; what they give is
    put together again. Of what is called several times on a batch the last output counts. Left
    out is what was not called, or gave another number of rows.

    Args:
        module: Has the submodules.
        names: Theirs.
        run: Runs the module on so many ``images``.
        images: How many.

    Raises:
        ClassifierError: A name that is no submodule.
    """
    given: dict[str, list[Tensor]] = {name: [] for name in names}
    with listening(module, names, lambda name, output: given[name].append(output)):
        result = run()
    rows = {name: _last_rows(each, images) for name, each in given.items()}
    return result, {name: each for name, each in rows.items() if each is not None}


def _last_rows(outputs: Sequence[Tensor], count: int) -> Tensor | None:
    """The last outputs that have so many rows together, as one; None where none have just those."""
    taken: list[Tensor] = []
    for output in reversed(outputs):
        taken.insert(0, output)
        if sum(map(len, taken)) >= count:
            break
    return torch.cat(taken) if sum(map(len, taken)) == count else None


def stage_outputs(classifier: Classifier, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one image; give its logits and the output of each module that ends a stage.

    A stage ends with the last output at each spatial size. For a ResNet these are the published
    taps (``relu, layer1, layer2, layer3, layer4``). Outputs of one pixel do not count, nor maps
    of the classes, nor what a module that is called several times gave before its last call. A
    transformer without feature maps gives the last of each quarter of the modules whose output
    has the shape of its tokens.

    Args:
        classifier: Its module is in evaluation mode.
        x: A normalised image ``(channels, H, W)``.

    Returns:
        Logits ``(classes,)``, and outputs ``(1, …)`` by module name, from shallow to deep.
    """
    module = classifier.network
    finished: list[tuple[str, Tensor]] = []
    names = [name for name, _ in module.named_modules()]
    with listening(module, names, lambda name, output: finished.append((name, output))):
        every = classifier.all_logits(x[None])
    logits, classes = classifier.chosen(every)[0], every.shape[1]
    latest = dict(finished)
    finished = [(name, output) for name, output in finished if latest[name] is output]
    last: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, output in finished:
        shape = output.shape
        if len(shape) == 4 and min(shape[2:]) > 1 and shape[1] != classes:
            # The image's aspect, up to rounding: outputs with channels last have another.
            skew = abs(shape[2] * x.shape[2] - shape[3] * x.shape[1])
            if skew <= max(x.shape[1:]):
                last.pop(tuple(shape[2:]), None)
                last[tuple(shape[2:])] = (name, output)
    if len(last) >= 3:
        return logits, dict(last.values())
    tokens = [(name, output) for name, output in finished if output.ndim == 3]
    quarter = max(1, len(tokens) // 4)
    return logits, dict([*last.values(), *tokens[quarter - 1 :: quarter]])
