import pytest
import torch
from torch import nn

import expcam
from expcam.classifier.frozen import frozen
from expcam.search.model import ClassifierModel, out_of_memory
from tests.helpers import red_square


class Strict(nn.Module):
    """Knows no bfloat16."""

    def __init__(self, inner: nn.Module, text: str) -> None:
        super().__init__()
        self.inner, self.text, self.failures = inner, text, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            self.failures += 1
            raise RuntimeError(self.text)
        logits: torch.Tensor = self.inner(x)
        return logits


def inputs() -> list[torch.Tensor]:
    return [red_square(), -red_square()]


def test_steps_may_run_in_bfloat16_and_checks_never_do(detector: expcam.Classifier) -> None:
    modes: list[bool] = []
    inner = detector.module.register_forward_hook(
        lambda *_: modes.append(torch.is_autocast_enabled("cpu"))
    )
    with frozen(detector.module):
        model = ClassifierModel(detector, mixed=True)
        model.with_gradient(inputs(), smoothed=False)
        model.outputs(inputs())
    inner.remove()
    assert modes == [True, False]


def test_operations_that_bfloat16_lacks_run_in_float32(detector: expcam.Classifier) -> None:
    strict = Strict(detector.module, "not implemented for 'BFloat16'")
    classifier = expcam.Classifier(strict, detector.transform, detector.labels)
    with frozen(strict):
        model = ClassifierModel(classifier, mixed=True)
        for _ in range(3):
            seen = model.with_gradient(inputs(), smoothed=False)
        exact = detector.module(torch.stack(inputs()))
        assert strict.failures == 1  # it is not tried again
    assert torch.equal(torch.stack([each.logits for each in seen]), exact)


def test_a_full_memory_is_not_taken_for_a_missing_operation(detector: expcam.Classifier) -> None:
    strict = Strict(detector.module, "DefaultCPUAllocator: can't allocate memory")
    with frozen(strict), pytest.raises(RuntimeError, match="allocate"):
        ClassifierModel(expcam.Classifier(strict, detector.transform), mixed=True).with_gradient(
            inputs(), smoothed=False
        )


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("whatever"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("not implemented for 'BFloat16'"), False),
    ],
)
def test_what_says_that_memory_ran_out(error: RuntimeError, full: bool) -> None:
    assert out_of_memory(error) == full


def test_a_module_of_double_precision_is_run_in_it(detector: expcam.Classifier) -> None:
    detector.module.double()
    with frozen(detector.module):
        model = ClassifierModel(detector, mixed=True)
        step, check = model.with_gradient(inputs(), smoothed=True), model.outputs(inputs())
    for one, other in zip(step, check, strict=True):
        assert torch.allclose(one.logits, other.logits, atol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_activations_are_those_of_the_layers_asked_for(mixed: bool) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    stage = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU())
    module = nn.Sequential(stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    classifier = expcam.Classifier(module)
    with frozen(module):
        expected = stage(torch.stack(inputs()))
        # With its batch norm folded, and in bfloat16, it is still found by its name.
        model = ClassifierModel(classifier, ["0"], mixed=mixed)
        for seen in (model.with_gradient(inputs(), smoothed=False), model.outputs(inputs())):
            found = torch.cat([each.activations["0"] for each in seen])
            assert torch.allclose(found.float(), expected, atol=3e-2 if mixed else 1e-6)
