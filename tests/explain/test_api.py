from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import expcam
from expcam.errors import ClassifierError, ImageError, OptionError, TargetError
from expcam.explain import api
from expcam.explain.objectives import OBJECTIVES
from expcam.explain.published import PublishedRecipe
from tests.helpers import EXAMPLES, RedDetector, hooks, red_square


def test_a_real_photograph(cat: expcam.Explanation) -> None:
    assert cat.source == "cat.jpg"
    assert cat.label_name == "cat"
    assert cat.predicted
    assert cat.kept
    assert cat.area == cat.mask.mean()
    assert cat.area < 0.5
    assert cat.mask.shape == cat.probability.shape == cat.image.shape[:2]
    assert np.array_equal(cat.mask, cat.probability > 0.5)


def test_the_figures_hold_when_measured_by_other_means(
    bundled: expcam.Classifier, cat: expcam.Explanation
) -> None:
    x, mask = torch.from_numpy(cat.input), torch.from_numpy(cat.mask)
    with torch.inference_mode():
        kept, without = bundled.module(torch.stack([x * mask, x * ~mask]))
    assert (int(kept.argmax()) == cat.label) == cat.kept
    assert (int(without.argmax()) != cat.label) == cat.necessary
    assert float(kept.softmax(0)[cat.label]) == pytest.approx(cat.masked_confidence, abs=1e-4)


def test_the_classifier_is_left_as_it_was(detector: expcam.Classifier) -> None:
    detector.module.train()
    before = {name: value.clone() for name, value in detector.module.state_dict().items()}
    expcam.explain_image(detector, red_square())
    assert all(each.training for each in detector.module.modules())
    assert all(p.requires_grad and p.grad is None for p in detector.module.parameters())
    assert hooks(detector.module) == 0
    after = detector.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_several_images_each_as_alone(detector: expcam.Classifier) -> None:
    blue = red_square().flip(0)
    both = expcam.explain_images(detector, [red_square(), blue])
    assert [each.label_name for each in both] == ["red", "blue"]
    alone = expcam.explain_image(detector, blue)
    assert np.array_equal(both[1].mask, alone.mask)


class OneByOne(nn.Module):
    """A classifier whose arithmetic does not depend on the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(each) for each in x.split(1)])


def test_masks_of_a_batch_are_those_of_one_by_one(bundled: expcam.Classifier) -> None:
    # In larger batches the classifier rounds in another way, which can turn close decisions of
    # the search; without that the masks are the same to the last pixel.
    exact = expcam.Classifier(OneByOne(bundled.module), bundled.transform, bundled.labels)
    photos = [EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"]
    for photo, each in zip(photos, expcam.explain_images(exact, photos), strict=True):
        alone = expcam.explain_image(exact, photo)
        assert np.array_equal(each.mask, alone.mask)
        assert each.cost == alone.cost


def test_images_of_several_sizes_are_solved_size_by_size(detector: expcam.Classifier) -> None:
    wide = torch.cat([red_square(), torch.zeros(3, 32, 8)], 2)
    found = expcam.explain_images(detector, [red_square(), wide, red_square()])
    assert [each.mask.shape for each in found] == [(32, 32), (32, 40), (32, 32)]
    assert np.array_equal(found[0].mask, found[2].mask)


def test_the_chunk_is_halved_when_memory_runs_out(detector: expcam.Classifier) -> None:
    images = [red_square().roll(shift, 1) for shift in range(4)]
    expected = expcam.explain_images(detector, images, chunk=1)
    sizes: list[int] = []

    def limited(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(inputs[0]))
            if len(inputs[0]) > 4:  # a step looks at two composites of each image
                raise torch.OutOfMemoryError("out of memory")

    handle = detector.module.register_forward_pre_hook(limited)
    found = expcam.explain_images(detector, images, chunk=4)
    handle.remove()
    assert max(sizes) == 8
    assert 4 in sizes
    for each, alone in zip(found, expected, strict=True):
        assert np.array_equal(each.mask, alone.mask)


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory"]
)
def test_other_devices_say_it_in_words(detector: expcam.Classifier, text: str) -> None:
    def limited(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled() and len(inputs[0]) > 2:
            raise RuntimeError(text)

    with detector.module.register_forward_pre_hook(limited):
        found = expcam.explain_images(detector, [red_square()] * 2)
    assert len(found) == 2


def test_a_contrast_for_images_of_several_classes(detector: expcam.Classifier) -> None:
    red = red_square()
    red[2, 20:28, 4:12] = 0.5
    images = [red, red.flip(0)]
    task = {"contrast": "nothing", "objective": "sufficient"}
    together = expcam.explain_images(detector, images, **task)
    assert [each.label_name for each in together] == ["red", "blue"]
    for image, each in zip(images, together, strict=True):
        assert np.array_equal(each.mask, expcam.explain_image(detector, image, **task).mask)
    with pytest.raises(TargetError, match="`blue` cannot be compared to itself"):
        expcam.explain_images(
            detector,
            images,
            contrast="blue",
            progress=lambda stage, done, total: pytest.fail("work began"),
        )


def test_nothing_is_necessary_for_what_is_not_said(detector: expcam.Classifier) -> None:
    with pytest.raises(TargetError, match="does not say `blue`, so nothing is necessary"):
        expcam.explain_image(detector, red_square(), target="blue", objective="necessary")
    blue = red_square().flip(0)
    with pytest.raises(TargetError, match="does not say `red`"):  # the last of them, in time
        expcam.explain_images(
            detector,
            [red_square(), blue],
            target="red",
            objective="necessary",
            chunk=1,
            progress=lambda stage, done, total: pytest.fail("work began"),
        )
    other = expcam.explain_image(detector, red_square(), target="blue")
    assert not other.predicted
    assert not other.necessary


@pytest.mark.parametrize("recipe", ["constrained", "paper"])
def test_progress_goes_forward_to_its_end(
    detector: expcam.Classifier, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PublishedRecipe", lambda: PublishedRecipe(steps=3))
    stages: dict[str, list[tuple[int, int]]] = {}
    x = red_square()[:, 2:18, 14:30]
    expcam.explain_images(
        detector,
        [x] * 3,
        recipe=recipe,
        chunk=2,
        progress=lambda stage, *done: stages.setdefault(stage, []).append(done),
    )
    assert list(stages) == (["mask", "pruning"] if recipe == "constrained" else ["mask"])
    for seen in stages.values():
        assert seen == sorted(seen)
        assert len({total for _, total in seen}) == 1
        assert seen[-1][0] == seen[-1][1]


def test_inside_inference_mode_it_says_so_before_any_work(detector: expcam.Classifier) -> None:
    with torch.inference_mode(), pytest.raises(ClassifierError, match="inference_mode"):
        expcam.explain_image(detector, red_square())


def test_a_module_of_double_precision(detector: expcam.Classifier) -> None:
    single = expcam.explain_image(detector, red_square())
    detector.module.double()
    double = expcam.explain_image(detector, red_square())
    assert double.kept
    assert double.robustness >= 0.75
    assert double.area == pytest.approx(single.area, abs=0.02)
    assert next(detector.module.parameters()).dtype == torch.float64


def test_what_was_prepared_is_not_read_again(detector: expcam.Classifier, tmp_path: Path) -> None:
    path = tmp_path / "square.png"
    Image.fromarray(detector.picture(red_square())).save(path)
    detector.transform = lambda image: red_square()
    prepared = detector.prepare(path)
    path.unlink()
    explanation = expcam.explain_image(detector, prepared)
    assert explanation.source == "square.png"
    assert explanation.kept


def test_inside_no_grad(detector: expcam.Classifier) -> None:
    with torch.no_grad():
        assert expcam.explain_image(detector, red_square()).kept


def test_other_errors_are_not_taken_for_memory(detector: expcam.Classifier) -> None:
    def broken(_module: nn.Module, _inputs: object) -> None:
        raise RuntimeError("something else")

    with (
        detector.module.register_forward_pre_hook(broken),
        pytest.raises(
            ClassifierError, match=r"fails on an image of shape \(3, 32, 32\): something"
        ),
    ):
        expcam.explain_images(detector, [red_square()] * 2)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_the_passes_are_all_counted(detector: expcam.Classifier, objective: str) -> None:
    forward, backward = 0, 0

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor], logits: torch.Tensor) -> None:
        nonlocal forward
        forward += len(inputs[0])
        if logits.requires_grad:
            logits.register_hook(add)

    def add(gradient: torch.Tensor) -> None:
        nonlocal backward
        backward += len(gradient)

    detector.is_multi_label(red_square())  # found out once
    with detector.module.register_forward_hook(hook):
        explanation = expcam.explain_image(detector, red_square(), objective=objective)
    assert explanation.cost == pytest.approx((forward + 2 * backward) / 3)
    assert explanation.holds


def test_objectives_in_order_of_what_they_ask(detector: expcam.Classifier) -> None:
    found = {
        objective: expcam.explain_image(detector, red_square(), objective=objective)
        for objective in OBJECTIVES
    }
    # 16 of the 64 red pixels are just enough, and without 48 of them too few are left.
    assert 16 < found["sufficient"].mask.sum() <= 24
    assert 48 <= found["necessary"].mask.sum() <= 56
    assert found["necessary"].necessary
    assert not found["sufficient"].necessary
    assert found["both"].kept
    assert found["both"].necessary
    assert found["robust"].robustness > 0.8
    assert found["robust"].draws_kept > 0.8 * found["robust"].draws
    assert found["robust"].bound < found["robust"].draws_kept / found["robust"].draws


def test_an_exact_area(detector: expcam.Classifier) -> None:
    best = expcam.explain_image(detector, red_square(), area=0.03)
    assert best.mask.sum() == round(0.03 * 32 * 32)
    assert best.cell == 0
    assert best.kept
    red = (red_square()[0] > 0).numpy()
    assert (best.mask & red).sum() / best.mask.sum() > 0.9
    hopeless = expcam.explain_image(detector, red_square(), area=0.005)
    assert hopeless.mask.sum() == 5
    assert not hopeless.kept
    assert not hopeless.holds


def test_why_this_class_rather_than_that(detector: expcam.Classifier) -> None:
    x = red_square()
    x[2, 20:28, 4:12] = 1
    versus = expcam.explain_image(
        detector, x, target="red", contrast="blue", objective="sufficient"
    )
    assert (versus.label_name, versus.contrast) == ("red", 2)
    assert versus.kept
    # Against blue alone a few red pixels do; `nothing` need not be beaten.
    assert versus.mask.sum() < 16
    table = expcam.compare(detector, versus, ["disc"]).set_index("method")
    assert table.loc["expcam", "area_kept"] <= versus.area
    with pytest.raises(TargetError, match="class `red` cannot be compared to itself"):
        expcam.explain_image(detector, x, contrast="red")


def test_a_bad_image_costs_no_work(detector: expcam.Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        expcam.explain_images(
            detector,
            [red_square(), tmp_path / "none.jpg"],
            progress=lambda stage, done, total: pytest.fail("work began"),
        )


def test_bad_options(detector: expcam.Classifier) -> None:
    with pytest.raises(OptionError, match="no images"):
        expcam.explain_images(detector, [])
    with pytest.raises(OptionError, match="unknown recipe `magic`; there are: constrained"):
        expcam.explain_image(detector, red_square(), recipe="magic")
    with pytest.raises(OptionError, match="unknown objective `best`; there are: robust"):
        expcam.explain_image(detector, red_square(), objective="best")
    for area in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(OptionError, match="is out of range"):
            expcam.explain_image(detector, red_square(), area=area)
    with pytest.raises(OptionError, match="its own objective"):
        expcam.explain_image(detector, red_square(), recipe="paper", area=0.1)
    with pytest.raises(OptionError, match="chunk 0"):
        expcam.explain_images(detector, [red_square()], chunk=0)
    with pytest.raises(OptionError, match="seed -1 is out of range"):
        expcam.explain_image(detector, red_square(), seed=-1)
    with pytest.raises(TargetError, match="unknown class `green`"):
        expcam.explain_image(detector, red_square(), target="green")


def test_a_photograph_as_path_image_and_array_is_the_same(bundled: expcam.Classifier) -> None:
    path = EXAMPLES / "cat.jpg"
    image = Image.open(path)
    inputs = [bundled.prepare(each).input for each in (path, str(path), image, np.asarray(image))]
    assert all(torch.equal(inputs[0], each) for each in inputs[1:])


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("recipe", ["constrained", "free"])
def test_the_mask_is_found_where_the_evidence_is(
    detector: expcam.Classifier, recipe: str, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expcam.search.model.computes_in_bfloat16", lambda device: bfloat16)
    explanation = expcam.explain_image(detector, red_square(), recipe=recipe)
    assert explanation.label_name == "red"
    assert explanation.kept
    assert explanation.robustness >= 0.75
    inside = explanation.mask & (red_square()[0] > 0).numpy()
    # The square is 6.25 % of the image, which leads by little on noise; half would do on grey.
    assert explanation.area <= 0.08
    assert inside.sum() / explanation.mask.sum() > 0.7


def test_the_same_seed_gives_the_same_mask(detector: expcam.Classifier) -> None:
    torch.manual_seed(1)
    first = expcam.explain_image(detector, red_square(), seed=5)
    before = torch.random.get_rng_state()
    second = expcam.explain_image(detector, red_square(), seed=5)
    assert np.array_equal(first.mask, second.mask)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_class_that_no_mask_reaches_is_reported_as_not_kept(detector: expcam.Classifier) -> None:
    explanation = expcam.explain_image(detector, red_square(), target="blue")
    assert explanation.label_name == "blue"
    assert not explanation.kept


class Reddish(nn.Module):
    """Says ``red`` where the mean over all pixels of red less blue is above 0.3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red = 30 * ((x[:, 0] - x[:, 2]).mean((1, 2)) - 0.3)
        return torch.stack([torch.zeros_like(red), red], 1)


def test_a_mask_is_as_large_as_it_must_be() -> None:
    # At the few per cent of most masks this label would trail by 8 logits.
    red = torch.zeros(3, 32, 32)
    red[0] = 1
    classifier = expcam.Classifier(Reddish(), lambda image: red, ["other", "red"])
    explanation = expcam.explain_image(classifier, red)
    assert explanation.holds
    assert explanation.robustness >= 0.75
    # Noise on the rest moves the margin by about one logit.
    assert 0.3 < explanation.area < 0.45
    grey = expcam.explain_image(classifier, red, objective="sufficient")
    assert 0.3 < grey.area < 0.34


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_what_is_claimed_to_be_minimal_is(detector: expcam.Classifier, objective: str) -> None:
    found = expcam.explain_image(detector, red_square(), objective=objective)
    if objective in ("sufficient", "necessary"):
        assert found.cell
        x, mask = torch.from_numpy(found.input), torch.from_numpy(found.mask)
        for row in range(0, 32, found.cell):
            for column in range(0, 32, found.cell):
                fewer = mask.clone()
                fewer[row : row + found.cell, column : column + found.cell] = False
                if torch.equal(fewer, mask) or not fewer.any():
                    continue
                shown = x * (fewer if objective == "sufficient" else ~fewer)
                with torch.inference_mode():
                    logits = detector.module(shown[None])[0]
                margin = float(logits[1] - logits[[0, 2]].max())
                assert (margin if objective == "sufficient" else -margin) < 0.02


def test_batches_generators_and_arrays_with_a_class_for_each(detector: expcam.Classifier) -> None:
    batch = torch.stack([red_square(), red_square().flip(0)])
    pixels = (batch * 100).byte().permute(0, 2, 3, 1).numpy()
    detector.transform = lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 100
    options = {"area": 0.3}
    for images in (batch, pixels, (each for each in batch), tuple(batch)):
        found = expcam.explain_images(detector, images, **options)
        assert [each.label_name for each in found] == ["red", "blue"]
    for targets in ([1, 0], torch.tensor([1, 0]), ("red", "nothing")):
        found = expcam.explain_images(detector, batch, target=targets, **options)
        assert [each.label for each in found] == [1, 0]
    contrasts = expcam.explain_images(detector, batch, contrast=["blue", None], **options)
    assert [each.contrast for each in contrasts] == [2, None]
    with pytest.raises(OptionError, match="takes several images, not one Tensor: give a batch of"):
        expcam.explain_images(detector, batch[0])
    with pytest.raises(OptionError, match="takes several images, not one str: give a list"):
        expcam.explain_images(detector, "cat.jpg")


def test_of_several_findings_the_weaker_one() -> None:
    module = RedDetector()
    with torch.no_grad():
        module.fc.weight[2] *= 0.7
        module.fc.bias.fill_(-1)
    classifier = expcam.Classifier(module, None, ["nothing", "red", "blue"], multi_label=True)
    x = red_square()
    x[2, 20:28, 4:12] = 2
    found = expcam.explain_image(classifier, x, target="blue", objective="sufficient")
    # 64 of 1024 pixels have blue 2, times 64 and 0.7, less 1.
    assert found.confidence == pytest.approx(float(torch.tensor(4.6).sigmoid()))
    assert found.predicted
    assert found.kept
    # 0.5 of 5.6 is what makes the logit positive: 12 pixels.
    assert 12 <= found.mask.sum() <= 16
    assert found.mask[20:28, 4:12].sum() == found.mask.sum()
    table = expcam.compare(classifier, found, ["gradcam"])
    assert table["area_kept"].tolist() == pytest.approx([found.area] * 2, abs=0.01)
    circuit = expcam.read_circuit(classifier, found)
    assert expcam.verify_circuit(classifier, circuit, [found], draws=1, sizes=(0.5,)).holds
    absent = expcam.explain_image(classifier, x, target="nothing", area=0.1)
    assert not absent.predicted
    assert not absent.kept
    circuit = expcam.read_circuit(classifier, absent)
    assert not expcam.verify_circuit(classifier, circuit, [absent], draws=1, sizes=(0.5,)).holds


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels_and_any_size(channels: int) -> None:
    module = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    classifier = expcam.Classifier(module)
    x = torch.rand(channels, 9, 40, generator=torch.Generator().manual_seed(0))
    found = expcam.explain_image(classifier, x, area=0.5)
    assert found.mask.shape == (9, 40)
    assert found.image.shape == (9, 40, 3)
    assert found.input.shape == x.shape
    table = expcam.compare(classifier, found, ["gradcam", "ig", "occlusion"])
    assert table["reason"].tolist() == [""] * 4


def test_of_an_image_that_does_not_fit_the_module_says_why(detector: expcam.Classifier) -> None:
    with pytest.raises(ClassifierError, match=r"fails on .* of shape \(5, 8, 8\): .*channels"):
        expcam.explain_image(detector, torch.rand(5, 8, 8))
