import pytest
import torch
from torch import nn

from expcam.classifier.frozen import frozen, require_autograd
from expcam.errors import ClassifierError


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    net.train()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[0].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails: bool) -> None:
    net = model()
    grad = net[0].weight.grad
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try:
        with frozen(net):
            assert not any(each.training for each in net.modules())
            assert not any(p.requires_grad for p in net.parameters())
            net(torch.randn(2, 3, 4, 4))
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert [each.training for each in net] == [True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    assert net[0].weight.grad is grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_needs_gradients_says_so_in_inference_mode() -> None:
    require_autograd("a mask")
    with torch.no_grad():
        require_autograd("a mask")
    with (
        torch.inference_mode(),
        pytest.raises(ClassifierError, match=r"a mask needs gradients: .* torch\.inference_mode"),
    ):
        require_autograd("a mask")
