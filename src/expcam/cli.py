"""The command ``expcam-circuit``: parse, call, print. Torch is loaded only when there is work."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from expcam.circuits.names import (
    EDGE_SCORE,
    EDGE_SCORE_NAMES,
    GRANULARITIES,
    NODE_SCORE,
    NODE_SCORE_NAMES,
    TOP_K,
)
from expcam.errors import ExpcamError, ExpcamWarning, OptionError
from expcam.explain.baselines import BASELINES, DEFAULT_METHODS
from expcam.explain.objectives import DEFAULT_OBJECTIVE, DEFAULT_RECIPE, OBJECTIVES, RECIPE_NAMES
from expcam.files import check_writable
from expcam.graphs.exports import CSV_FILES, WRITERS, Finding, write_csv, writer_for

if TYPE_CHECKING:
    from expcam.circuits.circuit import Circuit
    from expcam.circuits.verification import CircuitCheck
    from expcam.classifier.model import Classifier
    from expcam.explain.explanation import Explanation
    from expcam.progress import Progress

MISTAKE, NOT_KEPT, INTERRUPTED = 2, 3, 130

EPILOG = f"""
Examples:

  expcam-circuit cat.jpg --out graph.html

  expcam-circuit cat.jpg --out graph.html --model resnet18 --weights resnet18.safetensors

  expcam-circuit cat.jpg --out circuit.graphml --model bundled --target "golden retriever"

The suffix of --out picks the format: {", ".join(WRITERS)} (.csv makes a folder).

Exit codes: 0 done; 2 a mistake in what was asked; 3 done, but the mask
does not do what was asked on the mean colour.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG, no_args_is_help=True)
def circuit(
    image: Annotated[Path, typer.Argument(metavar="IMG", help="The photograph to explain.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="What to write; the suffix picks the format.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, bundled, or any torchvision classification model. auto is ResNet-18 "
            "where its weights can be had, else the bundled classifier.",
        ),
    ] = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its weights: a .safetensors, .pt or .pth state dict."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="Class to explain, by name or index (else the predicted one)"
        ),
    ] = None,
    contrast: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Explain the class as against this one alone."),
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
            help=f"The solver: {', '.join(RECIPE_NAMES)}.",
        ),
    ] = DEFAULT_RECIPE,
    area: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Find the best mask of this share of the pixels."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEV", help="cpu, cuda or mps (else the best there is)")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same mask.")] = 0,
    top_k: Annotated[
        int, typer.Option("--top-k", metavar="N", help="At most so many channels per layer.")
    ] = TOP_K,
    nodes: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help=f"What ranks channels: {', '.join(NODE_SCORE_NAMES)}.",
        ),
    ] = NODE_SCORE,
    edges: Annotated[
        str,
        typer.Option(
            metavar="SCORE",
            help=f"What an edge's score is: {', '.join(EDGE_SCORE_NAMES)} (or * for ×).",
        ),
    ] = EDGE_SCORE,
    granularity: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{' or '.join(GRANULARITIES)}; between blocks all paths are summed up.",
        ),
    ] = GRANULARITIES[0],
    verify: Annotated[
        bool, typer.Option(help="Test the circuit by ablation, beside controls.")
    ] = True,
    baselines: Annotated[
        str,
        typer.Option(
            metavar="LIST", help=f"Methods to compare with, of: {', '.join(BASELINES)}; or none."
        ),
    ] = ",".join(DEFAULT_METHODS),
    instances: Annotated[
        bool, typer.Option("--instances", help="Also look for further objects of the class.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as one JSON object.")
    ] = False,
) -> int:
    """Which pixels did this decision need, and which channels carried it?

    Finds a small mask under which the classifier keeps its decision on other backgrounds, reads the
    circuit of channels that carried it, and measures both beside other methods.
    """
    start = time.monotonic()
    write = writer_for(out)
    check_writable(out, folder=CSV_FILES if write is write_csv else None)
    methods = [name for name in baselines.split(",") if name and name != "none"]
    if instances and (contrast is not None or area is not None or objective != DEFAULT_OBJECTIVE):
        raise OptionError("--instances goes with neither --contrast nor --objective nor --area")
    asked = _Asked(target, contrast, objective, recipe, area, seed)
    reading = _Reading(top_k, nodes, edges, granularity, verify)
    finding = _find(image, model, weights, device, asked, reading, methods, instances)
    write(out, finding)
    _print(finding, out, time.monotonic() - start, as_json)
    return 0 if finding.explanation.holds else NOT_KEPT


def main() -> NoReturn:
    """Run the command and exit: one line on standard error for a mistake, never a traceback."""
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


@dataclass(frozen=True)
class _Asked:
    """The options that say which mask is wanted, by the names of `explain_image`."""

    target: str | None
    contrast: str | None
    objective: str
    recipe: str
    area: float | None
    seed: int


@dataclass(frozen=True)
class _Reading:
    """The options that say how the circuit is read and tested."""

    top_k: int
    nodes: str
    edges: str
    granularity: str
    verify: bool


def _find(
    image: Path,
    model: str,
    weights: Path | None,
    device: str | None,
    asked: _Asked,
    reading: _Reading,
    methods: list[str],
    instances: bool,
) -> Finding:
    """Everything that can be wrong with the options is looked at before the work starts."""
    with _status("loading torch"):
        import torch

        from expcam.circuits.readout import (
            COVERAGE,
            check_readable,
            check_selection,
            read_circuit,
        )
        from expcam.classifier.images import open_image
        from expcam.classifier.loading import load_classifier
        from expcam.explain.compare import check_methods, compare
        from expcam.explain.recipes import check_options
        from expcam.explain.run import explain_image, explain_instances
        from expcam.explain.task import Task

        # Masked activations are full of denormal numbers, on which a CPU is slow.
        torch.set_flush_denormal(True)
        check_options(asked.recipe, Task(asked.objective, asked.area, asked.seed))
        check_selection(COVERAGE, reading.top_k, reading.nodes, reading.edges, reading.granularity)
        check_methods(methods)
        open_image(image)
    with _status(f"loading classifier {model}"), _warnings_as_lines():
        classifier = load_classifier(model, weights or "default", device=device)
        check_readable(classifier, classifier.prepare(image).input)
    with _progress() as progress:
        if instances:
            first, *others = explain_instances(
                classifier,
                image,
                target=asked.target,
                recipe=asked.recipe,
                seed=asked.seed,
                progress=progress,
            )
        else:
            first = explain_image(classifier, image, **vars(asked), progress=progress)
            others = []
        with _warnings_as_lines():
            found = read_circuit(
                classifier,
                first,
                top_k=reading.top_k,
                nodes=reading.nodes,
                edges=reading.edges,
                granularity=reading.granularity,
            )
        table = compare(classifier, first, methods, progress=progress)
        tested = _test(classifier, first, found, progress) if reading.verify else {}
    return Finding(explanation=first, circuit=found, table=table, instances=others, **tested)


def _test(
    classifier: Classifier, explanation: Explanation, circuit: Circuit, progress: Progress
) -> dict[str, Any]:
    """The fields of a `Finding` that say whether the circuit is what carried the decision."""
    import torch

    from expcam.circuits.evidence import circuit_maps
    from expcam.circuits.verification import necessary_channels, verify_circuit

    if circuit.graph.graph["wiring"] != "exact":
        return {}
    return {
        "check": verify_circuit(classifier, circuit, [explanation], progress=progress),
        "necessary": necessary_channels(classifier, circuit, explanation),
        "maps": circuit_maps(classifier, torch.from_numpy(explanation.input), circuit),
    }


def _print(finding: Finding, out: Path, seconds: float, as_json: bool) -> None:
    from expcam.explain.compare import OURS
    from expcam.graphs.wording import circuit_figures, share

    e, graph = finding.explanation, finding.circuit.graph
    if as_json:
        print(json.dumps(_as_dict(finding, out, seconds)))
        return
    robust = f"on {round(8 * e.robustness)} of 8 unseen backgrounds"
    without = f"{'lost' if e.necessary else 'kept'} without the mask's pixels"
    if not e.predicted:
        without = "the whole image has another label"
    rival = f" rather than {e.contrast_name}" if e.contrast_name else ""
    needs = ", ".join(
        f"{row.title} {share(row.area_kept)} (all backgrounds {share(row.area_robust)})"
        for row in finding.table.itertuples()
        if row.method != OURS
    )
    lines = {
        "class": f"{e.label_name}{rival}, confidence {share(e.confidence)} ({e.classifier})",
        "mask": f"{share(e.area)} of the pixels in {e.seconds:.1f} s, {e.cost:.0f} passes",
        "label kept": f"{'yes' if e.kept else 'NO'}; {robust}; {without}",
        "noise": f"label kept on {e.draws_kept} of {e.draws} further draws: probability at least "
        f"{share(e.bound)} (95 % confidence)",
        "circuit": f"{graph.number_of_nodes()} channels and {graph.number_of_edges()} edges "
        f"in {len(finding.circuit.layers)} layers",
    }
    if finding.check is not None:
        lines["tested"] = circuit_figures(finding.check)
    if needs:
        lines["others need"] = needs
    if finding.instances:
        areas = ", ".join(share(each.area) for each in finding.instances)
        lines["instances"] = f"{len(finding.instances)} more: {areas} of the pixels"
    lines["written"] = f"{out} in {seconds:.0f} s"
    for name, text in lines.items():
        print(f"{name:<12} {text}")


def _as_dict(finding: Finding, out: Path, seconds: float) -> dict[str, object]:
    e = finding.explanation
    methods = finding.table.drop(columns="attribution").astype(object)
    return {
        "image": e.source,
        "classifier": e.classifier,
        "label": e.label,
        "label_name": e.label_name,
        "predicted": e.predicted,
        "confidence": e.confidence,
        "area": e.area,
        "kept": e.kept,
        "robustness": e.robustness,
        "necessary": e.necessary,
        "draws": e.draws,
        "draws_kept": e.draws_kept,
        "bound": e.bound,
        "cell": e.cell,
        "objective": e.objective,
        "contrast": e.contrast,
        "mask_seconds": e.seconds,
        "cost": e.cost,
        "instances": [each.area for each in finding.instances],
        "nodes": finding.circuit.graph.number_of_nodes(),
        "edges": finding.circuit.graph.number_of_edges(),
        "layers": len(finding.circuit.layers),
        "circuit_check": _check_as_dict(finding.check),
        "necessary_channels": None if finding.necessary is None else list(finding.necessary),
        "methods": methods.where(methods.notna(), None).to_dict("records"),
        "out": str(out),
        "seconds": seconds,
    }


def _check_as_dict(check: CircuitCheck | None) -> dict[str, object] | None:
    import pandas as pd

    if check is None:
        return None
    table = check.summary().loc["nodes", "zero"].astype(object)
    table = table.where(table.notna(), None)
    _, own = check.of("nodes", "zero")
    columns = ["size", "faithfulness", "completeness", "label_kept"]
    return {
        "distance": table["distance"].to_dict(),
        **{
            name: {k: None if pd.isna(v) else v for k, v in rows[columns].mean().items()}
            for name, rows in own.groupby("method")
        },
        "controls_as_good": check.controls_as_good("zero"),
    }


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
    """Show expcam's own warnings as a line each, without the source code that Python adds."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ExpcamWarning)
        usual: Callable[..., None] = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, ExpcamWarning):
                print(f"expcam-circuit: {message}", file=sys.stderr)
            else:
                usual(message, category, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
