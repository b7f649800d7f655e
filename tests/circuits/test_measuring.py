import torch
from torch import Tensor

import expcam
from expcam.circuits.flows import INPUT
from expcam.circuits.measuring import measure
from expcam.circuits.scores import Channels, weight_norms
from expcam.classifier.frozen import frozen
from tests.circuits.blocks import Attention

COLOURS = torch.tensor([1.0, 2.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2).clone()


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
    assert torch.allclose(channels.signed, expected, atol=1e-7)
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
    assert torch.allclose(heads.signed, torch.tensor([(2001 + 20) / 8, 300 / 8]))
    neurons = found.channels["up"]
    assert neurons.activation.tolist() == [2, 0]
    assert torch.allclose(neurons.signed, torch.tensor([2 * 2000 / 4, 0]))


def test_norms_of_weights_by_hand(micro: expcam.Classifier) -> None:
    with frozen(micro.module) as module:
        found = measure(module, COLOURS, 1, two)
        # Weights (1, 0, 0) and (0, -1, 1) by batch norms of 2 and 4.
        assert torch.allclose(
            weight_norms(found.recording, "conv1"), torch.tensor([2.0, 8.0]), rtol=1e-4
        )
