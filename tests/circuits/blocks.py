"""Tiny classifiers, one for each building block, and circuits, to work out by hand.

All classifiers take images ``(1, 3, 2, 2)`` and are run on the colours (1, 2, 3) in every pixel.
"""

import networkx as nx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expcam
from tests.helpers import kernel

COLOURS = torch.tensor([1.0, 2.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2).clone()
A0, A1, B0, B1, YES = ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("fc", 1)
Edges = dict[tuple[tuple[str, int], tuple[str, int]], float]


def circuit_of(
    edges: Edges, classifier: str = "tiny", end: tuple[str, int] = YES
) -> expcam.Circuit:
    """Edges with their scores, between the layers a, b and fc."""
    graph: nx.DiGraph = nx.DiGraph(
        classifier=classifier, label=end[1], label_name="yes", source="x", coverage=0.9, top_k=3,
        nodes="relevance", edges="weight×activation", granularity="layers", wiring="exact",
    )  # fmt: skip
    for layer, channel in sorted({end, *(node for edge in edges for node in edge)}):
        graph.add_node(
            (layer, channel), layer=layer, channel=channel, depth="ab".find(layer) % 3,
            activation=1.0, relevance=float(channel), kind="class" if layer == "fc" else "channel",
        )  # fmt: skip
    for (source, target), score in edges.items():
        graph.add_edge(source, target, score=score, signed=score)
    return expcam.Circuit(graph)


def convolution(rows: list[list[float]], groups: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias, of these weights."""
    weight = kernel(rows)
    conv = nn.Conv2d(weight.shape[1] * groups, len(rows), 1, bias=False, groups=groups)
    conv.weight.data = weight
    return conv


def linear(rows: list[list[float]]) -> nn.Linear:
    """A linear layer without bias, of these weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows, dtype=torch.float32)
    return layer


class Block(nn.Module):
    """The colours as they are, what a block makes of them, a mean over space and the classes."""

    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__()
        self.first = convolution([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        self.classes = linear(classes)

    def block(self, a: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classes(self.block(self.first(x)).mean((2, 3)))
        return logits


class Concatenation(Block):
    """Class 1 reads the first two channels a second time."""

    def block(self, a: Tensor) -> Tensor:
        return torch.cat([a, a[:, :2]], 1)


class Flattened(Block):
    """No mean: the classes read every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.first(x).flatten(1))  # type: ignore[no-any-return]


class Shuffle(Block):
    """Four channels in two groups, (a, b, c, a), are shuffled to (a, c, b, a)."""

    def block(self, a: Tensor) -> Tensor:
        four = torch.cat([a, a[:, :1]], 1)
        batch, _, height, width = four.shape
        grouped = four.view(batch, 2, 2, height, width).transpose(1, 2).contiguous()
        return grouped.view(batch, 4, height, width)


class Depthwise(Block):
    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__(classes)
        self.depthwise = convolution([[2.0], [-3.0], [0.5]], groups=3)

    def block(self, a: Tensor) -> Tensor:
        return self.depthwise(a)  # type: ignore[no-any-return]


class Squared(Block):
    """A product of a tensor with itself, halved and turned round: -a² / 2."""

    def block(self, a: Tensor) -> Tensor:
        return -(a * a) / 2


class LayerScale(Block):
    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__(classes)
        self.gamma = nn.Parameter(torch.tensor([2.0, -0.5, 0.5])[:, None, None])

    def block(self, a: Tensor) -> Tensor:
        return a + self.gamma * a


class SqueezeAndExcitation(Block):
    """Gates of 1/2, whatever the image."""

    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__(classes)
        self.squeeze = convolution([[0.0, 0.0, 0.0]] * 3)

    def block(self, a: Tensor) -> Tensor:
        return a * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(a, 1)))


class LayerNorm(Block):
    """(1, 2, 3) less its mean is (-1, 0, 1), over a deviation of √(2/3)."""

    def block(self, a: Tensor) -> Tensor:
        normed = F.layer_norm(a.permute(0, 2, 3, 1), (3,), eps=0.0)
        return normed.permute(0, 3, 1, 2)


class GroupNorm(Block):
    """The same numbers: all pixels are alike. Behind a ReLU, so that it is no layer's own."""

    def __init__(self, classes: list[list[float]]) -> None:
        super().__init__(classes)
        self.norm = nn.GroupNorm(1, 3, eps=1e-9, affine=False)

    def block(self, a: Tensor) -> Tensor:
        return self.norm(F.relu(a) + 0)


class Functional(nn.Module):
    """No modules at all: a grouped convolution, a linear layer and a product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(kernel([[1.0], [2.0], [3.0]]))
        self.hidden = nn.Parameter(torch.tensor([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]))
        self.classes = nn.Parameter(torch.tensor([[1.0, 0.0], [2.0, 5.0]]))

    def forward(self, x: Tensor) -> Tensor:
        # One target per group, three groups, twice: not depthwise, 3 to 6 channels.
        a = F.conv2d(x, torch.cat([self.kernels, -self.kernels]), groups=3).relu()
        pooled = a.mean((2, 3))[:, ::2]
        return F.linear(pooled, self.hidden).relu() @ self.classes.T


class Attention(nn.Module):
    """Two heads of two features that look at all four pixels alike; an MLP of two neurons.

    A stream of four channels: the colours and 0. The heads' values are the stream's own
    channels, written back as they are; a neuron reads the first channel, and writes it to the
    last, twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = convolution([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
        rows = torch.zeros(12, 4)
        rows[8:] = torch.eye(4)
        self.qkv = linear(rows.tolist())
        self.out = linear(torch.eye(4).tolist())
        self.up = linear([[1, 0, 0, 0], [0, -1, 0, 0]])
        self.down = linear([[0, 0], [0, 0], [0, 0], [2, 0]])
        self.head = linear([[0, 0, 0, 0], [1, 10, 100, 1000]])

    def forward(self, x: Tensor) -> Tensor:
        stream = self.embed(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = stream.shape
        q, k, v = self.qkv(stream).view(batch, tokens, 3, 2, 2).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        stream = stream + self.out(heads.transpose(1, 2).reshape(batch, tokens, 4))
        stream = stream + self.down(self.up(stream).relu())
        logits: Tensor = self.head(stream.mean(1))
        return logits


class Mixes(nn.Module):
    """Sorts channels, which cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).sort(1).values.mean((2, 3)))
        return logits


class Twice(Mixes):
    """Uses one convolution in two places."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc((self.conv(x) + self.conv(x)).mean((2, 3)))
        return logits


class Windows(nn.Module):
    """A convolution of windows that lie side by side in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).view(-1, 4, 2, 2, 4).permute(0, 2, 1, 3, 4).flatten(0, 1)
        logits: Tensor = self.head(self.second(a).view(-1, 2, 4, 8).mean((1, 3)))
        return logits
