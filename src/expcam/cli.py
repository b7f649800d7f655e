"""The command ``expcam-circuit``: parse, call, print. Torch is loaded only when there is work."""

from __future__ import annotations

import json
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from expcam.circuits.scores import (
    EDGE_SCORE,
    EDGE_SCORES,
    GRANULARITIES,
    NODE_SCORE,
    NODE_SCORES,
    TOP_K,
)
from expcam.classifier.sources import DEFAULT, FORMS
from expcam.errors import ExpcamError, ExpcamWarning, OptionError
from expcam.explain.compare.attributions import BASELINES, DEFAULT_METHODS
from expcam.explain.objectives import DEFAULT_OBJECTIVE, EVALUATION, OBJECTIVES
from expcam.explain.request import DEFAULT_RECIPE, PUBLISHED_RECIPE, RECIPES, Request
from expcam.files import check_writable, legible
from expcam.graphs.exports import CSV_FILES, WRITERS, write_csv, writer_for
from expcam.graphs.finding import (
    CIRCUITS,
    DISCOVERED,
    CircuitRequest,
    check_requests,
    find,
    photographs_in,
)

if TYPE_CHECKING:
    from expcam.classifier.model import Classifier, Prepared
    from expcam.progress import Progress

DONE, MISTAKE, NOT_HOLDING, INTERRUPTED = 0, 2, 3, 130

EPILOG = f"""
Examples:

  expcam-circuit cat.jpg --out graph.html

  expcam-circuit cat.jpg --out graph.html --model resnet18 --weights mine.ckpt --labels names.txt

  expcam-circuit cat.jpg --out circuit.graphml --model timm/convnext_tiny --target tabby

The suffix of --out picks the format: {", ".join(WRITERS)} (.csv makes a folder).

Exit codes: 0 done; 2 a mistake in the options; 3 done, but the mask does not do what
was asked. A mask that should keep the label on any background must keep it on the mean
colour and on at least half of the {len(EVALUATION)} unseen ones; "label kept" says "mostly"
where it does not keep it on all of them.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG, no_args_is_help=True)
def command(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="The photograph to explain.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="What to write; the suffix picks the format.")
    ],
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"The classifier: {FORMS}."),
    ] = DEFAULT,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its weights: safetensors, a state dict or a checkpoint of torch."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of its classes: lines, JSON or CSV."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Class to explain, by name or index (else the predicted one); several with "
            "commas count as one.",
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Explain why the class rather than this one."),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"What the smallest mask must do: {', '.join(OBJECTIVES)}.",
        ),
    ] = DEFAULT_OBJECTIVE,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"How the mask is found: {', '.join(RECIPES)}.",
        ),
    ] = DEFAULT_RECIPE,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="COSINE",
            help="Keep the activations of the last stage so far, or of others: "
            "0.8, or layer3=0.8,layer4=0.9.",
        ),
    ] = None,
    area: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Find the best mask of this share of the pixels."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEV", help="cpu, cuda or mps (else the best there is).")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same mask.")] = 0,
    circuit: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{' or '.join(CIRCUITS)}: found under ablation, or read in one pass.",
        ),
    ] = DISCOVERED,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photographs of other things, whose channels stand in the place of ablated ones.",
        ),
    ] = None,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="The most channels per layer of a readout.")
    ] = TOP_K,
    nodes: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help=f"What ranks a readout's channels: {', '.join(NODE_SCORES)}.",
        ),
    ] = NODE_SCORE,
    edges: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help=f"What a readout's edges score: {', '.join(EDGE_SCORES)} (or * for ×).",
        ),
    ] = EDGE_SCORE,
    granularity: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Of a readout: {' or '.join(GRANULARITIES)}; "
            "blocks sum up all paths between them.",
        ),
    ] = GRANULARITIES[0],
    verify: Annotated[
        bool, typer.Option(help="Test the circuit by ablation, beside other classes and controls.")
    ] = True,
    baselines: Annotated[
        str,
        typer.Option(
            metavar="LIST", help=f"Methods to compare with, of: {', '.join(BASELINES)}; or none."
        ),
    ] = ",".join(DEFAULT_METHODS),
    instances: Annotated[
        bool, typer.Option("--instances", help="Explain each object of the class by itself.")
    ] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L,T,R,B",
            help="An object to be explained by itself: left, top, right and bottom in pixels of "
            "the image as the classifier sees it. May be given again.",
        ),
    ] = None,
    alternatives: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Look for N other masks that keep the label without this one."
        ),
    ] = 0,
    curve: Annotated[
        bool,
        typer.Option("--match-curve", help="Find out what keeping the activations costs in area."),
    ] = False,
    crops: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Photographs, to show on the page which drive a channel most."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as one JSON object.")
    ] = False,
) -> int:
    """Which pixels did this decision need, and which channels carried it?

    Finds a small mask under which the classifier keeps its decision on other backgrounds, and the
    circuit of channels that carries it whatever the others do, and measures both beside others.
    """
    start = time.monotonic()
    write = writer_for(out)
    check_writable(out, folder=CSV_FILES if write is write_csv else None)
    methods = [name for name in baselines.split(",") if name and name != "none"]
    boxes = [_box(each) for each in box or []]
    mask = Request(
        target=target,
        contrast=contrast,
        objective=objective,
        match=None if match is None else _match(match),
        recipe=recipe,
        area=area,
        seed=seed,
    )
    plain = Request(target=target, recipe=recipe, seed=seed)
    if (instances or boxes) and mask != plain:
        raise OptionError(
            "--instances and --box go with none of --contrast, --objective, --match and --area"
        )
    robust = objective == DEFAULT_OBJECTIVE and area is None and recipe != PUBLISHED_RECIPE
    if (curve or alternatives) and not robust:
        raise OptionError(
            "--match-curve and --alternatives look for robust masks: they go with none of "
            f"--objective, --area and --recipe {PUBLISHED_RECIPE}"
        )
    if curve and (contrast is not None or boxes or instances):
        raise OptionError("--match-curve goes with none of --contrast, --box and --instances")
    photographs = [] if crops is None else photographs_in(crops)
    channels = CircuitRequest(
        first=circuit,
        reference=[] if reference is None else photographs_in(reference),
        top_k=top_k,
        nodes=nodes,
        edges=edges,
        granularity=granularity,
    )
    with _status("loading torch"):
        check_requests(channels, methods)
    classifier, prepared = _load(image, model, weights, labels, device)
    with _warnings_as_lines(), _progress() as progress:
        finding = find(
            classifier, prepared, mask, channels, methods,
            instances=instances, boxes=boxes, alternatives=alternatives, curve=curve,
            verify=verify, photographs=photographs,
            command=legible(shlex.join(["expcam-circuit", *sys.argv[1:]])), progress=progress,
        )  # fmt: skip
    from expcam.graphs.summary import as_dict, lines
    from expcam.graphs.wording import holding

    write(out, finding)
    seconds = time.monotonic() - start
    if as_json:
        print(json.dumps(as_dict(finding, out, seconds)))
    else:
        for name, text in lines(finding, out, seconds).items():
            print(f"{name:<12} {text}")
    return NOT_HOLDING if holding(finding.explanation) == "no" else DONE


def main() -> NoReturn:
    """Run the command and exit: one line on standard error for a mistake, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a console may lack letters that a file's name has
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        # Typer turns Ctrl-C into this code by itself.
        if code == INTERRUPTED:
            raise KeyboardInterrupt
    except (ExpcamError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        if message:  # without arguments the help has been shown already
            print(f"expcam-circuit: {' '.join(message.split())}", file=sys.stderr)
        code = MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        print("expcam-circuit: interrupted; no half-written file is left", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


def _load(
    image: Path, model: str, weights: Path | None, labels: Path | None, device: str | None
) -> tuple[Classifier, Prepared]:
    """The classifier, and the image prepared for it; a bad image is reported first."""
    from expcam.circuits.readout import check_readable
    from expcam.classifier.images import open_image
    from expcam.classifier.loading import load_classifier

    picture = open_image(image)
    with _status(f"loading classifier {model}"), _warnings_as_lines():
        classifier = load_classifier(model, weights or "default", labels=labels, device=device)
        prepared = replace(classifier.prepare(picture), source=legible(image.name))
        check_readable(classifier, prepared.input)
    return classifier, prepared


def _match(text: str) -> float | dict[str, float]:
    """A cosine similarity, or several as ``tap=similarity`` with commas between them."""
    try:
        if "=" not in text:
            return float(text)
        pairs = (each.partition("=") for each in text.split(","))
        return {tap.strip(): float(value) for tap, _, value in pairs}
    except ValueError:
        raise OptionError(
            f"match `{text}` is no cosine similarity: 0.8, for instance, or layer3=0.8,layer4=0.9"
        ) from None


def _box(text: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, with commas between them."""
    try:
        left, top, right, bottom = map(float, text.split(","))
    except ValueError:
        raise OptionError(f"box `{text}` is not left,top,right,bottom in pixels") from None
    return left, top, right, bottom


@contextmanager
def _status(text: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar per stage on standard error, gone when the work is done."""
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, visible=done < total)
            if done == total:
                del tasks[stage]  # it may begin once more, for another object

        yield report


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show each of expcam's own warnings as one line, without the source code that Python adds."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ExpcamWarning)
        usual: Callable[..., None] = warnings.showwarning
        said: set[str] = set()

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, ExpcamWarning):
                if str(message) not in said:  # each mask of several would say it again
                    print(f"expcam-circuit: {message}", file=sys.stderr)
                said.add(str(message))
            else:
                usual(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
