"""The published recipe beside a slow transcription of what was published, term by term."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import expcam
from expcam.classifier.frozen import frozen
from expcam.explain.decision import decide
from expcam.explain.generators import GENERATORS
from expcam.explain.losses import TERMS, Observation, Reference, weighted
from expcam.explain.published import PublishedRecipe, solve_published
from expcam.explain.request import Request
from expcam.progress import silent
from expcam.search.projection import straight_through
from tests.helpers import red_square

TAPS = {"relu": 1.0, "layer1": 2.0, "layer2": 2.0, "layer3": 4.0, "layer4": 8.0}
SHALLOW = ("relu", "layer1")
WEIGHTS = {"act": 10, "ce": 15, "kl": 5, "area": 100, "bin": 1, "tv": 500, "rob": 100}
STEPS, RATE = 3, 5e-5


def outputs_of(network: models.ResNet, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A ResNet written out: its logits, and what the published taps give."""
    seen = {"relu": network.relu(network.bn1(network.conv1(x)))}
    seen["layer1"] = network.layer1(network.maxpool(seen["relu"]))
    seen["layer2"] = network.layer2(seen["layer1"])
    seen["layer3"] = network.layer3(seen["layer2"])
    seen["layer4"] = network.layer4(seen["layer3"])
    return network.fc(network.avgpool(seen["layer4"]).flatten(1)), seen


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


def literal_terms(
    network: models.ResNet, x: Tensor, p: Tensor, m: Tensor, label: int, noise: list[Tensor]
) -> dict[str, Tensor]:
    """Each term as it is written, nothing shared and nothing left out.

    Args:
        network: The classifier.
        x: The image ``(3, H, W)``.
        p: Mask probabilities ``(H, W)``.
        m: The binary mask, through which gradients pass to ``p``.
        label: The class.
        noise: The backgrounds beside 0.
    """
    height, width = p.shape
    logits_x, whole = outputs_of(network, x[None])
    logits_e, masked = outputs_of(network, (m * x)[None])
    act = torch.zeros(())
    for tap, weight in TAPS.items():
        a, b = whole[tap][0], masked[tap][0]
        if tap in SHALLOW:
            dot, lengths = (a * b).sum(0), a.norm(dim=0) * b.norm(dim=0)
            distance = (1 - dot / lengths.clamp_min(1e-8)).mean()
        else:
            standard = [
                (each - each.mean((1, 2), keepdim=True))
                / (each.std((1, 2), keepdim=True, correction=0) + 1e-5)
                for each in (a, b)
            ]
            distance = ((standard[0] - standard[1]) ** 2).mean()
        act = act + weight * distance
    tv = torch.zeros(())
    for down, right, weight in ((1, 0, 1), (0, 1, 1), (1, 1, 2**-0.5), (1, -1, 2**-0.5)):
        pairs = [
            (p[i, j] - p[i + down, j + right]).abs()
            for i in range(height - down)
            for j in range(max(0, -right), width - max(0, right))
        ]
        tv = tv + weight * torch.stack(pairs).mean()
    rob = [
        kl(
            network(x[None])[0].softmax(0),
            network((m * x + (1 - m) * r)[None])[0].softmax(0),
        )
        for r in (torch.zeros_like(x), *noise)
    ]
    return {
        "act": act,
        "ce": -logits_e[0].softmax(0)[label].log(),
        "kl": 2**2 * kl((logits_x[0] / 2).softmax(0), (logits_e[0] / 2).softmax(0)),
        "area": p.sum() / (height * width),
        "bin": (p * (1 - p)).sum() / (height * width),
        "tv": tv,
        "rob": torch.stack(rob).mean(),
    }


@pytest.fixture(scope="module")
def resnet() -> models.ResNet:
    torch.manual_seed(0)
    network = models.resnet18(num_classes=5).eval()
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean = torch.randn_like(each.running_mean) / 9
            each.running_var = torch.rand_like(each.running_var) + 0.5
    return network


@pytest.fixture
def image() -> Tensor:
    return torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))


def noise_of(rng: torch.Generator, x: Tensor) -> list[Tensor]:
    """One N(0, 1) and one U(-1, 1) background."""
    return [torch.randn(x.shape, generator=rng), torch.rand(x.shape, generator=rng) * 2 - 1]


def test_each_term_is_the_published_one(resnet: models.ResNet, image: Tensor) -> None:
    rng = torch.Generator().manual_seed(2)
    p = torch.rand(32, 32, generator=rng)
    m = (p > 0.5).float()
    noise = noise_of(rng, image)
    backgrounds = torch.stack([torch.zeros_like(image), *noise])
    with frozen(resnet), torch.no_grad():
        expected = literal_terms(resnet, image, p, m, 3, noise)
        logits, whole = outputs_of(resnet, image[None])
        composites = m * image + (1 - m) * backgrounds
        composite_logits, masked = outputs_of(resnet, composites)
        seen = Observation(
            probability=p,
            logits=composite_logits,
            activations=masked,
            reference=Reference(logits=logits[0], activations=whole, label=3),
        )
        found = {name: float(term(seen)) for name, term in TERMS.items()}
    assert set(found) == set(expected) == set(WEIGHTS)
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4), name


@pytest.mark.filterwarnings("ignore:the label is nearly tied")
def test_the_gradient_is_that_of_the_published_sum(resnet: models.ResNet, image: Tensor) -> None:
    torch.manual_seed(0)
    generator = GENERATORS["unet"](image)
    noise = noise_of(torch.Generator().manual_seed(2), image)
    gradients = []
    with frozen(resnet), torch.enable_grad():
        with torch.no_grad():
            logits, whole = outputs_of(resnet, image[None])
        p = torch.sigmoid(generator(image))
        m = (p > 0.5).float() + p - p.detach()
        terms = literal_terms(resnet, image, p, m, 3, noise)
        sums = [torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()]
        p = torch.sigmoid(generator(image))
        backgrounds = torch.stack([torch.zeros_like(image), *noise])
        masks = straight_through(p)
        seen, masked = outputs_of(resnet, masks * image + (1 - masks) * backgrounds)
        reference = Reference(logits=logits[0], activations=whole, label=3)
        observed = Observation(probability=p, logits=seen, activations=masked, reference=reference)
        sums.append(weighted(observed, WEIGHTS))
        for each in sums:
            rows = torch.autograd.grad(each, list(generator.parameters()))
            gradients.append(torch.cat([row.flatten() for row in rows]))
    expected, found = gradients
    assert float((found - expected).norm()) < 1e-4 * float(expected.norm())


def test_steps_are_the_published_ones(resnet: models.ResNet, image: Tensor) -> None:
    """The recipe, with its shared passes, learns what the transcription learns."""
    classifier = expcam.Classifier(resnet)
    with frozen(resnet), torch.enable_grad():
        decision = decide(classifier, classifier.prepare(image), Request(recipe="paper"))
        recipe = PublishedRecipe(steps=STEPS)
        allowed = torch.ones(32, 32, dtype=torch.bool)
        found = solve_published(decision, allowed, recipe, 0, silent)
        torch.manual_seed(0)
        generator = GENERATORS["unet"](image)
        start = torch.sigmoid(generator(image)).detach()
        optimizer = torch.optim.Adam(generator.parameters(), lr=RATE)
        rng = torch.Generator().manual_seed(0)
        for _ in range(STEPS):
            p = torch.sigmoid(generator(image))
            m = (p > 0.5).float() + p - p.detach()
            terms = literal_terms(resnet, image, p, m, decision.label, noise_of(rng, image))
            total = sum(WEIGHTS[name] * term for name, term in terms.items())
            optimizer.zero_grad()
            assert isinstance(total, Tensor)
            total.backward()
            optimizer.step()
        expected = torch.sigmoid(generator(image)).detach()
    # Rounding turns the signs of gradients that are nearly zero, and Adam steps by signs at first:
    # what is learned has the same direction and length, but not the same digits.
    ours, theirs = ((each - start).flatten() for each in (found.scores, expected))
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.9
    assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=0.2)


def test_the_weights_are_the_published_ones() -> None:
    assert dict(PublishedRecipe().weights) == WEIGHTS
    assert PublishedRecipe().steps == 880
    assert PublishedRecipe().rate == RATE


def test_fixed_weights_shrink_the_mask(detector: expcam.Classifier) -> None:
    steps: list[int] = []
    recipe = PublishedRecipe(steps=30, rate=1e-3)
    with frozen(detector.module):
        image = detector.prepare(red_square())
        decision = decide(detector, image, Request(recipe="paper"))
        allowed = torch.ones(32, 32, dtype=torch.bool)
        allowed[:4] = False
        found = solve_published(
            decision, allowed, recipe, 0, lambda stage, done, total: steps.append(done)
        )
        again = solve_published(decision, allowed, recipe, 0, silent)
    assert steps == list(range(1, 31))
    assert found.passes == 90
    assert found.keep.float().mean() < 0.9
    assert not found.keep[:4].any()
    assert torch.equal(found.keep, again.keep)
