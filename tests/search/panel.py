"""Parts that are not pixels, few enough to be worked out by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expcam.search.engine import Problem
from expcam.search.parts import Perturbation


class Panel:
    """Numbers that are kept or replaced; their weighted sum must exceed a threshold.

    Kinds of perturbations: ``zero`` puts 0 in place of what is left out, ``noise`` a draw of
    N(0, 1), ``removal`` puts 0 in place of what is kept, and the sum must fall below.
    """

    cell_sizes: Sequence[int] = (2, 1)

    def __init__(self, weights: Sequence[float], threshold: float) -> None:
        self.weights, self.threshold = torch.tensor(weights), threshold
        self.allowed = torch.ones(len(weights), dtype=torch.bool)

    def perturbation(self, kind: str, rng: torch.Generator) -> Perturbation:
        value = torch.zeros(len(self.weights))
        if kind == "noise":
            value = torch.randn(len(self.weights), generator=rng)
        return Perturbation(kind, value, random=kind == "noise", removal=kind == "removal")

    def opposite(self, drawn: Perturbation) -> Perturbation:
        return Perturbation(drawn.kind, -drawn.value, drawn.random, drawn.removal)

    def perturbed(self, keep: Tensor, by: Perturbation) -> Tensor:
        keep = keep.float()
        keep = 1 - keep if by.removal else keep
        return keep + (1 - keep) * by.value

    def loss(self, keep: Tensor, output: Tensor, by: Perturbation) -> Tensor:
        return torch.nn.functional.softplus((output[1] - output[0]) * (2 * by.removal - 1))

    def margins(self, outputs: Sequence[Tensor], by: Sequence[Perturbation]) -> Tensor:
        assert len(outputs) == len(by)
        return torch.stack([output[1] - output[0] for output in outputs])

    def cells(self, keep: Tensor, size: int) -> Tensor:
        blocks = torch.arange(len(keep)) // size
        return (blocks == blocks[keep].unique()[:, None]) & keep


class PanelModel:
    """Logits of a panel's inputs; counts what it runs."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.steps = self.checks = 0
        self.smoothed: list[bool] = []
        self.whole: list[bool] = []

    def with_gradient(self, inputs: Sequence[Tensor], *, smoothed: bool) -> Sequence[Tensor]:
        self.steps += len(inputs)
        self.smoothed.append(smoothed)
        # What soft masks leave of zeros and ones lies between 0 and 1, noise does not.
        self.whole.append(all(bool(((x >= 0) & (x <= 1)).all()) for x in inputs))
        return self._logits(inputs)

    def outputs(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.checks += len(inputs)
        return self._logits(inputs)

    def _logits(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        total = torch.stack(list(inputs)) @ self.panel.weights - self.panel.threshold
        return torch.stack([torch.zeros_like(total), total], 1).unbind()


class FreeScores:
    """A score for each part, moved along the direction of its gradient."""

    def __init__(self, count: int) -> None:
        # No two are level, and what little they say is chance.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        self.scores = (1e-3 * order).requires_grad_()

    def __call__(self) -> Tensor:
        return self.scores * 1

    def step(self, progress: float) -> None:
        gradient = self.scores.grad
        assert gradient is not None
        with torch.no_grad():
            self.scores -= 0.1 * gradient / (gradient.norm() + 1e-12)
        self.scores.grad = None


def problem(
    panel: Panel,
    kinds: Sequence[str] = ("zero",),
    *,
    share: float | None = None,
    draws: int = 6,
    seed: int = 0,
) -> Problem:
    """A search among a panel's parts; noise is drawn several times for a check."""
    checks = [kind for kind in kinds for _ in range(draws if kind == "noise" else 1)]
    return Problem(
        parts=panel,
        scorer=FreeScores(len(panel.weights)),
        steps=kinds,
        checks=checks,
        fresh=[kind for kind in checks if kind == "noise"],
        share=share,
        rng=torch.Generator().manual_seed(seed),
    )
