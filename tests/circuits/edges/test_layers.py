"""Edges by hand on the tiny classifiers of `blocks`, and their sums on real architectures."""

import math
import unittest.mock
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from timm.models.davit import DaVit
from timm.models.focalnet import FocalNet
from timm.models.hiera import Hiera
from timm.models.metaformer import MetaFormer
from timm.models.mlp_mixer import MlpMixer
from timm.models.volo import VOLO
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

import expcam
from expcam.circuits.edges.flow import CONSTANT
from expcam.circuits.edges.layers import follow
from expcam.circuits.trace.recording import INPUT, Active, Recording, record
from expcam.classifier.frozen import frozen
from expcam.errors import WiringError
from tests.circuits import blocks
from tests.helpers import keeping_everything

Edge = tuple[tuple[str, int], tuple[str, int]]


def edges_of(module: nn.Module) -> dict[Edge, tuple[float, float]]:
    """Score and signed value of each edge, on the colours (1, 2, 3) in every pixel, class 1."""
    x = torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(3, 2, 2).clone()
    classifier = expcam.Classifier(module.eval(), transform=lambda image: x)
    circuit = expcam.read_circuit(classifier, keeping_everything(classifier, x, 1), coverage=1.0)
    return {(s, t): (d["score"], d["signed"]) for s, t, d in circuit.graph.edges(data=True)}


def from_first(*numbers: tuple[float, float]) -> dict[Edge, tuple[float, float]]:
    """Edges from the first layer's channels, in order, to class 1."""
    return {(("first", n), ("classes", 1)): both for n, both in enumerate(numbers)}


def close(found: dict[Edge, tuple[float, float]], by_hand: dict[Edge, tuple[float, float]]) -> None:
    assert set(found) == set(by_hand)
    for edge, numbers in by_hand.items():
        assert found[edge] == pytest.approx(numbers, rel=1e-5, abs=1e-6), edge


NOTHING = [0.0] * 5
DEVIATION = math.sqrt(2 / 3)


@pytest.mark.parametrize(
    ("module", "by_hand"),
    [
        # Channels 1 and 2 come again as inputs 4 and 5: weights 1 + 5 and |2| + |-7|.
        (
            blocks.Concatenation([NOTHING, [1, 2, 3, 5, -7]]),
            from_first((6, 6), (2 * 9, 2 * -5), (3 * 3, 3 * 3)),
        ),
        # Of each channel's four pixels, all alike, the class weighs the first and the last.
        (
            blocks.Flattened([NOTHING[:3] * 4, [1, 0, 0, 2, 0, 3, 0, -1, 0, 0, 0, 4]]),
            from_first((3, 3), (2 * 4, 2 * 2), (3 * 4, 3 * 4)),
        ),
        # The inputs are a, c, b and a again.
        (
            blocks.Shuffle([NOTHING[:4], [1, 10, 100, 1000]]),
            from_first((1001, 1001), (2 * 100, 2 * 100), (3 * 10, 3 * 10)),
        ),
        (
            blocks.Depthwise([NOTHING[:3], [1, 1, -4]]),
            from_first((2, 2), (2 * 3, 2 * -3), (3 * 2, 3 * -2)),
        ),
        # The skip and the branch are two ways: 1 + 2, 1 + |-1/2| and 1 + 1/2.
        (
            blocks.LayerScale([NOTHING[:3], [1, 1, 1]]),
            from_first((3, 3), (2 * 1.5, 2 * 0.5), (3 * 1.5, 3 * 1.5)),
        ),
        # Each is its own gate; fixed factors are weights, gates are not.
        (
            blocks.Squared([NOTHING[:3], [1, 1, -1]]),
            from_first((0.5, -0.5), (2 * 0.5, -2), (3 * 0.5, 4.5)),
        ),
        # The gate passes half, but is no weight.
        (
            blocks.SqueezeAndExcitation([NOTHING[:3], [1, 2, 4]]),
            from_first((1, 0.5), (4, 2), (12, 6)),
        ),
        # Less the mean, the weights (1, 2, 6) are (-2, -1, 3).
        (
            blocks.LayerNorm([NOTHING[:3], [1, 2, 6]]),
            from_first(
                (2 / DEVIATION, -2 / DEVIATION),
                (2 / DEVIATION, -2 / DEVIATION),
                (9 / DEVIATION, 9 / DEVIATION),
            ),
        ),
    ],
    ids=[
        "concatenation",
        "flattened",
        "shuffle",
        "depthwise",
        "layer scale",
        "square",
        "gate",
        "layer norm",
    ],
)
def test_blocks_by_hand(module: nn.Module, by_hand: dict[Edge, tuple[float, float]]) -> None:
    close(edges_of(module), by_hand)


def test_a_group_norm_takes_the_mean_from_all_channels() -> None:
    found = edges_of(blocks.GroupNorm([NOTHING[:3], [1, 2, 6]]))
    signed = [found[("first", n), ("classes", 1)][1] for n in range(3)]
    # As with the layer norm: all pixels are alike.
    assert signed == pytest.approx([-2 / DEVIATION, -2 / DEVIATION, 9 / DEVIATION], rel=1e-4)


def test_functional_calls_by_hand() -> None:
    # Group g of three makes channels 2g and 2g + 1 of color g; the stride keeps 0, 2 and 4,
    # whose kernels are 1, 3 and -2: activations 1, 6 and 0.
    close(
        edges_of(blocks.Functional()),
        {
            # Hidden neurons: 1 + 6 = 7 and -6 -> 0, of which none is relevant.
            (("kernels", 0), ("hidden", 0)): (1, 1),
            (("kernels", 2), ("hidden", 0)): (6, 6),
            (("hidden", 0), ("classes", 1)): (14, 14),
        },
    )


def test_attention_by_hand() -> None:
    found = edges_of(blocks.Attention())
    embed = [("embed", n) for n in range(4)]
    heads = [("attention", n) for n in range(2)]
    neuron, yes = ("up", 0), ("head", 1)
    close(
        found,
        {
            # A head has two features, the mean of which counts; its values are the stream.
            (embed[0], heads[0]): (1, 1 / 2), (embed[1], heads[0]): (2, 2 / 2),
            (embed[2], heads[1]): (3, 3 / 2),
            # The neuron reads the first channel of the embedding, 1, and of the head, whose mean
            # absolute activation is (1 + 2) / 2: the stream holds 2.
            (embed[0], neuron): (1, 1), (heads[0], neuron): (1.5, 1),
            (embed[0], yes): (1, 1), (embed[1], yes): (20, 20), (embed[2], yes): (300, 300),
            # Its features are weighed 1 and 10, or 100 and 1000; the last is 0.
            (heads[0], yes): (11 * 1.5, 1 + 20), (heads[1], yes): (1100 * 1.5, 300),
            # It writes twice its value, 2, to what the class weighs 1000.
            (neuron, yes): (4000, 4000),
        },
    )  # fmt: skip


class Copied(blocks.Attention):
    """What the heads give is copied before it is used, as a dropout would."""

    def forward(self, x: Tensor) -> Tensor:
        attention = F.scaled_dot_product_attention
        with unittest.mock.patch.object(
            F, "scaled_dot_product_attention", lambda *qkv: attention(*qkv).clone()
        ):
            return super().forward(x)


def test_heads_whose_output_is_copied() -> None:
    assert edges_of(Copied()) == edges_of(blocks.Attention())


def transformer(name: str) -> nn.Module:
    """torchvision's transformers, but small."""
    if name == "vit":
        sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48}
        return torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_classes=10, **sizes
        )
    if name == "maxvit":
        return torchvision.models.MaxVit(
            input_size=(32, 32), stem_channels=8, partition_size=2, block_channels=[8, 16],
            block_layers=[1, 1], head_dim=4, stochastic_depth_prob=0.0, num_classes=10,
        )  # fmt: skip
    block = SwinTransformerBlockV2 if name == "swin_v2" else None
    merging = {"downsample_layer": PatchMergingV2} if name == "swin_v2" else {}
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
        num_classes=10, block=block, **merging,
    )  # fmt: skip


def shaken(name: str) -> nn.Module:
    """A model in float64 with random weights and random batch norm statistics.

    Its name is torchvision's, or ``timm/`` and timm's or one of `SMALL`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in ("vit", "swin", "swin_v2", "maxvit"):
            module = transformer(name).double().eval()
        elif name.startswith("timm/"):
            kind = name.removeprefix("timm/")
            make = SMALL.get(kind, partial(timm.create_model, kind))
            module = make().double().eval()
        else:
            module = torchvision.models.get_model(name, weights=None).double().eval()
        for each in module.modules():
            if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(each.running_var, 0.5, 2)
                nn.init.normal_(each.running_mean, 0, 0.3)
                nn.init.uniform_(each.weight, 0.5, 1.5)
                nn.init.normal_(each.bias, 0, 0.3)
        for parameter in module.parameters():
            if not parameter.any():  # some begin with a last layer of zeros
                nn.init.normal_(parameter, 0, 0.1)
    return module


SMALL: dict[str, Callable[[], nn.Module]] = {
    "mixer": partial(MlpMixer, img_size=64, patch_size=16, num_blocks=2, embed_dim=16),
    "poolformer": partial(MetaFormer, depths=(1, 2, 1, 1), dims=(8, 16, 24, 32)),
    "focalnet": partial(FocalNet, depths=(1, 1, 1, 1), embed_dim=8, focal_levels=(2, 2, 2, 2)),
    "volo": partial(
        VOLO, (1, 1, 1, 1), img_size=64, embed_dims=(16, 32, 32, 32), num_heads=(2, 4, 4, 4)
    ),
    "davit": partial(
        DaVit, depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4)
    ),
    "hiera": partial(Hiera, img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1)),
    "xcit": partial(Xcit, img_size=32, embed_dim=16, depth=2, num_heads=2, eta=1.0),
    "deit_distilled": partial(
        timm.create_model, "deit_tiny_distilled_patch16_224", img_size=32, depth=2
    ),
    "levit": partial(timm.create_model, "levit_128s", img_size=64),
}
"""timm's models, so small that all of their channels are followed in seconds."""


def everything(recording: Recording) -> dict[str, Active]:
    """All channels of all layers."""
    colours = recording.image.movedim(1, 0)
    active = {INPUT: Active(channels=torch.arange(3), rows=colours)}
    for layer in recording.layers.values():
        rows = layer.rows(recording.activations[layer.name].detach())
        active[layer.name] = Active(channels=torch.arange(layer.channels), rows=rows)
    return active


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("resnet18", 64), ("squeezenet1_0", 64)),
        *(("densenet121", 64), ("mobilenet_v3_small", 64), ("efficientnet_b0", 64)),
        *(("shufflenet_v2_x0_5", 64), ("mnasnet0_5", 64), ("regnet_y_400mf", 64)),
        *(("convnext_tiny", 32), ("inception_v3", 80), ("googlenet", 64)),
        pytest.param("alexnet", 64, marks=pytest.mark.exhaustive),
        pytest.param("resnext50_32x4d", 32, marks=pytest.mark.exhaustive),
        *(("vit", 32), ("swin", 32), ("swin_v2", 32), ("maxvit", 32)),
        *(
            pytest.param(f"timm/{name}", side, marks=pytest.mark.exhaustive)
            for name, side in [
                *(("convnextv2_atto", 32), ("skresnet18", 32), ("resnest14d", 32)),
                *(("mobileone_s0", 32), ("starnet_s050", 32), ("deit_distilled", 32)),
                *(("mixer", 64), ("poolformer", 64), ("focalnet", 64), ("volo", 64)),
                *(("davit", 64), ("hiera", 64), ("xcit", 32), ("levit", 64)),
            ]
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_contributions_of_all_sources_add_up_to_the_preactivation(name: str, side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    e = torch.randn(1, 3, side, side, generator=generator, dtype=torch.float64)
    assert largest_error(shaken(name), e) < 1e-6


class Mixing(nn.Module):
    """Two heads, of two features each, that mix positions or channels in some way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.embed, self.qkv = nn.Conv2d(3, 4, 1), nn.Linear(4, 12)
        self.out, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embed(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = stream.shape
        q, k, v = self.qkv(stream).view(batch, tokens, 3, 2, 2).permute(2, 0, 3, 1, 4)
        if self.way == "positions":
            heads = (q @ k.transpose(2, 3)).softmax(3) @ v
        elif self.way == "channels":
            q, k = F.normalize(q, dim=2), F.normalize(k, dim=2)
            heads = ((q.transpose(2, 3) @ k).softmax(3) @ v.transpose(2, 3)).transpose(2, 3)
        elif self.way == "overlapping windows":
            patches = F.unfold(v.transpose(2, 3).reshape(batch, 4, 3, 3), 3, padding=1)
            patches = patches.view(batch, 2, 2, 9, tokens).permute(0, 1, 4, 3, 2)
            weights = (q @ k.transpose(2, 3))[..., None, :].expand(-1, -1, -1, 9, -1).softmax(4)
            mixed = weights @ patches  # heads, tokens, places, features
            mixed = mixed.permute(0, 1, 4, 3, 2).reshape(batch, 36, tokens)
            heads = F.fold(mixed, (3, 3), 3, padding=1).view(batch, 2, 2, tokens).transpose(2, 3)
        elif self.way == "einsum":
            scores = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(3)
            heads = torch.einsum("bhnm,bhmd->bhnd", scores, v)
        elif self.way == "turned":
            scores = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(3)
            turned = torch.einsum("bhnm,bmhd->bnhd", scores, v.transpose(1, 2))
            heads = turned.transpose(1, 2)
        elif self.way == "shared values":
            heads = (q @ k.transpose(2, 3)).softmax(3) @ v[:, :1].relu()
        elif self.way == "without softmax":
            heads = q.relu() @ (k.relu().transpose(2, 3) @ v)
        else:  # heads as a part of the batch
            q, k, v = (each.flatten(0, 1) for each in (q, k, v))
            heads = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(2), v)
            heads = heads.view(batch, 2, tokens, 2)
        stream = stream + self.out(heads.transpose(1, 2).reshape(batch, tokens, 4))
        pooled = stream.mean(1)
        logits: Tensor = (self.head(pooled) + self.second(pooled)) / 2
        return logits


@pytest.mark.parametrize(
    "way",
    [
        *("positions", "channels", "shared values", "without softmax", "batch"),
        *("overlapping windows", "einsum"),
    ],
)
def test_contributions_through_attention_of_any_form_add_up(way: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Mixing(way).double().eval()
        e = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    assert largest_error(module, e) < 1e-9


def test_contributions_to_a_convolution_of_windows_add_up() -> None:
    assert largest_error(blocks.Windows().double().eval(), torch.rand(1, 3, 4, 4).double()) < 1e-9


def test_heads_that_are_not_told_apart_are_refused() -> None:
    with pytest.raises(WiringError, match="cannot follow channels through `einsum`"):
        largest_error(Mixing("turned").double().eval(), torch.rand(1, 3, 3, 3).double())


def largest_error(module: nn.Module, e: Tensor) -> float:
    """By what share of a layer's largest preactivation the contributions to it are off."""
    with frozen(module), torch.no_grad():
        recording = record(module, e)
        sums: dict[str, Tensor] = {}
        for each in follow(recording, everything(recording), constants=True):
            sums[each.target] = sums.get(each.target, 0) + each.signed.sum(1)
    assert set(sums) == set(recording.layers)
    parameters = dict(module.named_parameters())
    errors = []
    for layer in recording.layers.values():
        expected = layer.rows(recording.preactivations[layer.name]).flatten(1).mean(1)
        bias = parameters.get(f"{layer.name}.bias")
        if bias is not None:
            expected = expected - bias.detach()
        expected = expected * layer.scale
        errors.append(float((sums[layer.name] - expected).abs().max() / expected.abs().max()))
    return max(errors)


def test_without_constants_the_sums_lack_what_biases_add() -> None:
    """The control: the proof above would not hold by itself."""
    module = shaken("densenet121")
    e = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    with frozen(module), torch.no_grad():
        recording = record(module, e)
        found = list(follow(recording, everything(recording), constants=True))
    constant = [each for each in found if each.source == CONSTANT]
    assert len(constant) > 50
    assert max(float(each.signed.abs().max()) for each in constant) > 0.1
