from pathlib import Path

import numpy as np
import pytest
import torch

import expcam
from expcam.errors import ImageError, OptionError, TargetError
from tests.explain.test_taps import hooks
from tests.helpers import EXAMPLES, red_square


def test_a_real_photograph(cat: expcam.Explanation) -> None:
    assert cat.source == "cat.jpg"
    assert cat.label_name == "cat"
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


def test_a_bad_image_costs_no_work(detector: expcam.Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        expcam.explain_images(
            detector,
            [red_square(), tmp_path / "none.jpg"],
            progress=lambda stage, done, total: pytest.fail("work began"),
        )


def test_instances_lie_apart_and_each_is_enough(detector: expcam.Classifier) -> None:
    x = red_square()
    x[0, 20:28, 4:12] = 2
    found = expcam.explain_instances(detector, x, most=4)
    assert len(found) >= 2
    assert all(each.kept for each in found)
    assert np.stack([each.mask for each in found]).sum(0).max() == 1


def test_bad_options(detector: expcam.Classifier) -> None:
    with pytest.raises(OptionError, match="no images"):
        expcam.explain_images(detector, [])
    with pytest.raises(OptionError, match="unknown recipe `magic`; there are: constrained"):
        expcam.explain_image(detector, red_square(), recipe="magic")
    with pytest.raises(OptionError, match="seed -1 is out of range"):
        expcam.explain_image(detector, red_square(), seed=-1)
    with pytest.raises(TargetError, match="unknown class `green`"):
        expcam.explain_image(detector, red_square(), target="green")


def test_a_photograph_as_path_image_and_array_is_the_same(bundled: expcam.Classifier) -> None:
    from PIL import Image

    path = EXAMPLES / "cat.jpg"
    image = Image.open(path)
    inputs = [bundled.prepare(each).input for each in (path, str(path), image, np.asarray(image))]
    assert all(torch.equal(inputs[0], each) for each in inputs[1:])
