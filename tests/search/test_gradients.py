import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expcam
from expcam.classifier.frozen import frozen
from expcam.search.gradients import SmoothedGradients
from tests.helpers import EXAMPLES


def gradient(function: object, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """Of the sum of a function's outputs, smoothed."""
    x = x.clone().requires_grad_()
    with SmoothedGradients():
        output = function(x * 1)  # type: ignore[operator]
    (output if weights is None else output * weights).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize(
    "relu",
    [F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.ReLU(), nn.ReLU(inplace=True)],
)
def test_a_relu_passes_gradients_by_a_soft_step(relu: object) -> None:
    # The root mean square is 1, so that the steps are the sigmoids of -4, 4, 0 and 4 √2.
    x = torch.tensor([[-1.0, 1.0, 0.0, 2**0.5]])
    sigmoids = [1 / (1 + math.exp(-4 * each)) for each in (-1, 1, 0, 2**0.5)]
    assert gradient(relu, x)[0].tolist() == pytest.approx(sigmoids)


def test_in_place_is_in_place() -> None:
    x = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    with SmoothedGradients():
        y = x * 1
        F.relu(y, inplace=True)
        (y * 3).sum().backward()
    assert y.tolist() == [[0.0, 1.0]]
    assert x.grad is not None
    assert float(x.grad[0, 0]) == pytest.approx(3 / (1 + math.exp(4)))


def test_an_input_by_name_is_left_alone() -> None:
    assert gradient(lambda x: torch.relu(input=x), torch.tensor([[-1.0, 1.0]])).tolist() == [[0, 1]]


def test_the_width_of_the_step_is_each_images_own() -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    both = gradient(F.relu, torch.stack([x[0], 1000 * x[1]]))
    for one, alone in zip(both, (gradient(F.relu, x[:1]), gradient(F.relu, x[1:])), strict=True):
        assert torch.allclose(one, alone[0])
    assert torch.isfinite(gradient(F.relu, torch.zeros(1, 4))).all()


def test_a_part_of_a_maximums_gradient_is_spread_evenly() -> None:
    x = torch.tensor([[[[1.0, 2.0, 5.0, 5.0], [4.0, 3.0, 6.0, 5.0]]]])
    weights = torch.tensor([8.0, 80.0])
    # Of 8 and 80, 0.3 is spread over four pixels, 0.7 stays with the largest.
    expected = torch.tensor([[0.6, 0.6, 6.0, 6.0], [6.2, 0.6, 62.0, 6.0]])
    for pooling in (nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2)):
        torch.testing.assert_close(gradient(pooling, x, weights)[0, 0], expected)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"stride": 2, "ceil_mode": True}, {"dilation": 2}]
)
def test_no_gradient_of_a_maximum_is_lost(options: dict[str, int]) -> None:
    x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    outputs = F.max_pool2d(x, 3, **options).numel()
    assert float(gradient(nn.MaxPool2d(3, **options), x).sum()) == pytest.approx(outputs)


def test_maxima_with_their_indices_are_left_alone() -> None:
    x = torch.tensor([[[[1.0, 2.0], [4.0, 3.0]]]])
    maximum = gradient(lambda x: F.max_pool2d(x, 2, return_indices=True)[0], x)
    assert maximum[0, 0].tolist() == [[0.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "googlenet"])
def test_what_a_classifier_computes_is_the_same(name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    kwargs = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module = models.get_model(name, weights=None, num_classes=7, **kwargs)
    x = torch.randn(2, 3, 96, 96)
    with frozen(module):
        own = x.clone().requires_grad_()
        expected = module(own)
        expected[:, 0].sum().backward()
        seen = x.clone().requires_grad_()
        with SmoothedGradients():
            output = module(seen)
        output[:, 0].sum().backward()
        with SmoothedGradients(), torch.inference_mode():
            assert torch.equal(module(x), expected)
    assert torch.equal(output, expected)
    assert own.grad is not None
    assert seen.grad is not None
    assert torch.isfinite(seen.grad).all()
    assert not torch.allclose(seen.grad, own.grad)


def test_gradients_beside_two_draws_of_noise_have_more_in_common(
    bundled: expcam.Classifier,
) -> None:
    x = bundled.prepare(EXAMPLES / "cat.jpg").input
    rng = torch.Generator().manual_seed(0)
    draws = [torch.randn(x.shape, generator=rng) for _ in range(6)]

    def gradients(smoothed: bool) -> Tensor:
        """Of the label's logit by the share of each cell that is kept, ``(draws, cells)``."""
        rows = []
        for noise in draws:
            keep = torch.full((1, 1, 28, 28), 0.5, requires_grad=True)
            shown = F.interpolate(keep, size=x.shape[-2:])[0]
            composite = (shown * x + (1 - shown) * noise)[None]
            with SmoothedGradients() if smoothed else nullcontext():
                logits = bundled.logits(composite)
            rows.append(torch.autograd.grad(logits[0, label], keep)[0].flatten())
        return torch.stack(rows)

    with frozen(bundled.module):
        label = int(bundled.logits(x[None]).argmax())
        own, soft = gradients(smoothed=False), gradients(smoothed=True)
    pairs = ~torch.eye(len(draws), dtype=torch.bool)

    def alike(rows: Tensor) -> float:
        return float(torch.corrcoef(rows)[pairs].mean())

    # They still point the same way: the mean of one kind against the mean of the other.
    assert float(torch.corrcoef(torch.stack([own.mean(0), soft.mean(0)]))[0, 1]) > 0.8
    assert alike(soft) > 1.3 * alike(own) > 0
