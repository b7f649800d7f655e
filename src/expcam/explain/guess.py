"""Where a solver starts."""

from torch import Tensor

from expcam.errors import ClassifierError
from expcam.explain.baselines import centred_disc, gradcam_at
from expcam.explain.problem import Problem


def first_guess(problem: Problem) -> Tensor:
    """Where to start: Grad-CAM, or a centred disc where that says nothing; ``(H, W)``."""
    stages = problem.reference.activations
    try:
        guess = gradcam_at(problem.classifier, problem.x, problem.label, stages)
        problem.passes.forward += 1
        problem.passes.backward += 1
    except ClassifierError:
        guess = centred_disc(problem.classifier, problem.x, problem.label)
    if float(guess.std()) == 0:
        guess = centred_disc(problem.classifier, problem.x, problem.label)
    return (guess - guess.mean()) / guess.std()
