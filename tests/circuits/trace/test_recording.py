import pytest
import torch
from torch import Tensor

import expcam
from expcam.circuits.trace.kinds import Kind
from expcam.circuits.trace.recording import INPUT, Channels, Layer, measure, record
from expcam.classifier.frozen import frozen
from tests.circuits.blocks import COLOURS, Attention, SqueezeAndExcitation


def two(_: str, channels: Channels) -> Tensor:
    return channels.relevance.topk(2).indices


def test_measures_are_those_of_plain_autograd(bundled: expcam.Classifier) -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with frozen(bundled.module) as module:
        found = measure(module, x, 7, two, gradients=True)
        kept: list[Tensor] = []
        inner = module.get_submodule("layer2.0.relu")
        handle = inner.register_forward_hook(lambda _m, _i, out: kept.append(out))
        logits = module(x.requires_grad_())
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[0, 7], kept[0])
    activation = kept[0].detach()[0].flatten(1)
    channels = found.channels["layer2.0.conv1"]
    assert torch.allclose(channels.activation, activation.mean(1), atol=1e-6)
    expected = (activation * gradient[0].flatten(1)).mean(1)
    assert torch.allclose(channels.attribution, expected, atol=1e-7)
    active = found.active["layer2.0.conv1"]
    assert active.channels.tolist() == expected.abs().topk(2).indices.tolist()
    assert torch.equal(active.rows[:, 0].flatten(1), activation[active.channels])
    assert active.gradient is not None
    assert active.gradient.shape == active.rows.shape
    assert found.active["fc"].channels.tolist() == [7]
    assert list(found.channels) == [INPUT, *found.recording.layers]


def test_heads_and_neurons_by_hand() -> None:
    with frozen(Attention()) as module:
        found = measure(module, COLOURS, 1, two)
    # Heads hold (1, 2) and (3, 0); gradients by them are (1 + 2000, 10) and (100, 1000) over 4
    # tokens: the neuron reads the first channel.
    heads = found.channels["attention"]
    assert heads.activation.tolist() == [1.5, 1.5]
    assert torch.allclose(heads.attribution, torch.tensor([(2001 + 20) / 8, 300 / 8]))
    neurons = found.channels["up"]
    assert neurons.activation.tolist() == [2, 0]
    assert torch.allclose(neurons.attribution, torch.tensor([2 * 2000 / 4, 0]))


def test_a_run_keeps_each_layers_activation_and_what_its_weights_give(
    micro: expcam.Classifier,
) -> None:
    with frozen(micro.module) as module, torch.no_grad():
        found = record(module, COLOURS)
    assert list(found.layers) == ["conv1", "conv2", "fc"]
    assert found.output_layer == "fc"
    # conv1 gives (1, 1), its batch norm (2, 4); conv2 (4, 2), its batch norm (2, -1).
    for name, given, after, scale in (
        ("conv1", [1, 1], [2, 4], [2, 4]),
        ("conv2", [4, 2], [2, -1], [0.5, -1]),
    ):
        assert found.preactivations[name][0, :, 0, 0].tolist() == pytest.approx(given, rel=1e-4)
        assert found.activations[name][0, :, 0, 0].tolist() == pytest.approx(after, rel=1e-4)
        assert found.layers[name].scale.tolist() == pytest.approx(scale, rel=1e-4)
    assert found.logits.tolist() == [pytest.approx([1, 8], rel=1e-4)]


def test_an_observer_is_handed_the_layers_in_place_of_the_recording(
    micro: expcam.Classifier,
) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def observer(layer: Layer, activation: Tensor, _: Tensor) -> None:
        seen.append((layer.name, tuple(layer.rows(activation).shape)))

    with frozen(micro.module) as module, torch.no_grad():
        found = record(module, COLOURS, observer=observer)
    assert seen == [("conv1", (2, 1, 2, 2)), ("conv2", (2, 1, 2, 2)), ("fc", (2, 1))]
    assert not found.activations
    assert not found.preactivations


def test_what_the_image_made_of_an_operation_is_held() -> None:
    module = SqueezeAndExcitation([[0.0] * 3, [1.0] * 3]).eval()
    with frozen(module), torch.no_grad():
        found = record(module, COLOURS)
    (product,) = (n for n, step in found.wiring.steps.items() if step.kind is Kind.PRODUCT)
    factor = found.kept[product].frozen
    assert factor is not None
    assert factor.flatten().tolist() == [0.5] * 3
    # In place of the tensor that channels are followed through stands its operation.
    assert found.kept[product].args[0] in found.wiring.steps


def test_what_no_gradient_reaches_has_no_attribution() -> None:
    with frozen(Attention()) as module:
        found = measure(module, COLOURS, 0, two)  # a class that reads nothing
    assert found.channels["embed"].attribution.tolist() == [0] * 4
    assert found.channels["embed"].activation.tolist() == [1, 2, 3, 0]


def test_a_float64_module_is_measured_in_float64(micro: expcam.Classifier) -> None:
    with frozen(micro.module.double()) as module:
        found = measure(module, COLOURS, 1, two)
    assert found.channels["conv1"].activation.dtype == torch.float64
    assert found.channels["conv1"].activation.tolist() == pytest.approx([2, 4], rel=1e-4)
