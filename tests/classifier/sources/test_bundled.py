from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import expcam
from expcam.classifier.sources.bundled import ASSETS, WEIGHTS_FILE, SmallResNet, bundled_classes
from tests.helpers import EXAMPLES, predicted


def test_at_least_a_hundred_classes_with_names_of_their_own() -> None:
    names = [name for _, name in bundled_classes()]
    wnids = [wnid for group, _ in bundled_classes() for wnid in group]
    assert len(set(names)) == len(names) >= 100
    assert len(set(wnids)) == len(wnids)


def test_weights_are_small_enough_and_half_precision() -> None:
    assert Path(str(WEIGHTS_FILE)).stat().st_size < 25e6
    with safe_open(str(WEIGHTS_FILE), "pt") as file:
        kinds = {str(file.get_tensor(name).dtype) for name in file.keys()}  # noqa: SIM118
    assert kinds == {"torch.float16", "torch.int64"}


def test_the_model_card_states_the_accuracy_in_the_weights() -> None:
    with safe_open(str(WEIGHTS_FILE), "pt") as file:
        metadata = file.metadata()
    card = (ASSETS / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{float(metadata['top1']):.1%}" in card
    assert float(metadata["top1"]) >= 0.5


def test_the_last_feature_map_is_large_enough(bundled: expcam.Classifier) -> None:
    x = bundled.prepare(EXAMPLES / "cat.jpg").input[None]
    module = bundled.module
    assert isinstance(module, SmallResNet)
    features = module.layer3(module.layer2(module.layer1(module.relu(module.bn1(module.conv1(x))))))
    assert min(features.shape[-2:]) >= 4


def test_it_is_right_on_both_examples(bundled: expcam.Classifier) -> None:
    assert predicted(bundled, EXAMPLES / "cat.jpg")[0] == "cat"
    assert predicted(bundled, EXAMPLES / "coffee.jpg")[0] == "espresso"


def test_it_is_right_on_sharp_large_photographs(bundled: expcam.Classifier, shared: Path) -> None:
    names = {wnid: name for wnids, name in bundled_classes() for wnid in wnids}
    photos = [p for p in (shared / "data/photos").glob("n*") if p.name.split("_")[0] in names]
    right = [predicted(bundled, path)[0] == names[path.name.split("_")[0]] for path in photos]
    assert len(right) >= 8
    # Four of eight, with no room for chance: there are 103 classes.
    assert sum(right) / len(right) >= 0.4


@pytest.mark.exhaustive
def test_accuracy_is_the_one_stated(bundled: expcam.Classifier, shared: Path) -> None:
    table = pd.read_parquet(shared / "data/tiny-imagenet/val.parquet", columns=["wnid", "image"])
    index = {wnid: i for i, (wnids, _) in enumerate(bundled_classes()) for wnid in wnids}
    table = table[table["wnid"].isin(index)].iloc[::5]
    truth = torch.tensor([index[wnid] for wnid in table["wnid"]])
    x = torch.stack([bundled.prepare(Image.open(BytesIO(d))).input for d in table["image"]])
    with torch.inference_mode():
        found = torch.cat([bundled.logits(part).argmax(1) for part in x.split(64)])
    with safe_open(str(WEIGHTS_FILE), "pt") as file:
        stated = float(file.metadata()["top1"])
    assert float((found == truth).float().mean()) == pytest.approx(stated, abs=0.06)
