"""The solvers to choose from, by name."""

from collections.abc import Callable, Sequence

from expcam.errors import OptionError
from expcam.explain.backgrounds import SEEDS
from expcam.explain.objectives import (
    DEFAULT_OBJECTIVE,
    DEFAULT_RECIPE,
    OBJECTIVES,
    PUBLISHED_RECIPE,
)
from expcam.explain.problem import Problem
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.explain.settings import ConstrainedRecipe
from expcam.explain.solver import solve_constrained
from expcam.explain.task import Solution, Task
from expcam.progress import Progress

Recipe = Callable[[Sequence[Problem], Task, Progress], list[Solution]]
"""Solves several problems of one classifier and image size."""

RECIPES: dict[str, Recipe] = {
    DEFAULT_RECIPE: lambda problems, task, progress: solve_constrained(
        problems, ConstrainedRecipe(), task, progress
    ),
    "free": lambda problems, task, progress: solve_constrained(
        problems, ConstrainedRecipe(generator="free"), task, progress
    ),
    PUBLISHED_RECIPE: lambda problems, task, progress: [
        solve_published(problem, PublishedRecipe(), task.seed, progress) for problem in problems
    ],
}
"""``constrained`` trains an autoencoder, ``free`` bare mask logits in the same loop; ``paper`` is
the published recipe with its fixed weights."""


def check_options(recipe: str, task: Task) -> None:
    """Raise `OptionError` for what no solver can do."""
    if recipe not in RECIPES:
        raise OptionError(f"unknown recipe `{recipe}`; there are: {', '.join(RECIPES)}")
    if task.objective not in OBJECTIVES:
        raise OptionError(
            f"unknown objective `{task.objective}`; there are: {', '.join(OBJECTIVES)}"
        )
    if task.area is not None and not 0 < task.area <= 1:
        raise OptionError(
            f"area {task.area} is out of range: a share of the pixels, above 0 and at most 1"
        )
    if not 0 <= task.seed < SEEDS:
        raise OptionError(f"seed {task.seed} is out of range: from 0 to {SEEDS - 1}")
    if recipe == PUBLISHED_RECIPE and (task.objective, task.area) != (DEFAULT_OBJECTIVE, None):
        raise OptionError(
            f"recipe `{PUBLISHED_RECIPE}` has its own objective: it takes neither another one "
            "nor an area"
        )
