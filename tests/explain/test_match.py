import math

import pytest
import torch

import expcam
from expcam.classifier.frozen import frozen
from expcam.errors import OptionError
from expcam.explain.match import Match, Matching, Whole, cosine, mean_of, moved, pooled
from tests.helpers import red_square


def test_similarity_by_hand() -> None:
    whole = torch.tensor([[[[1.0, 1.0]], [[2.0, 0.0]]]])  # two channels of 1×2
    masked = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    # 1 of √6 · 1 as they are; the means are (1, 1) and (1/2, 0).
    assert float(cosine(masked, whole)) == pytest.approx(1 / math.sqrt(6))
    assert pooled(whole).tolist() == [[1.0, 1.0]]
    assert float(cosine(pooled(masked), pooled(whole))) == pytest.approx(1 / math.sqrt(2))
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])  # two tokens with two channels
    assert pooled(tokens).tolist() == [[2.0, 1.0]]


def test_a_mask_of_everything_keeps_all_and_none_keeps_nothing(
    detector: expcam.Classifier,
) -> None:
    x = red_square()
    with frozen(detector.module):
        whole = Whole.of(detector, x)
        every, half, none = whole.matches(
            detector, x, torch.stack([x[0] > -1, x[0] > 9, x[0] > 0]).bool()[[0, 2, 1]]
        )
    assert list(every.spatial) == list(every.pooled) == list(whole.activations)
    assert every.last == pytest.approx(1)
    assert half.last == pytest.approx(1)  # all of the red
    assert none.last == pytest.approx(0)
    # softmax(2, 8, 0) against softmax(2, 0, 0).
    p, q = torch.tensor([2.0, 8, 0]).softmax(0), torch.tensor([2.0, 0, 0]).softmax(0)
    assert none.divergence == pytest.approx(float((p * (p / q).log()).sum()))
    assert every.divergence == pytest.approx(0, abs=1e-6)


def test_the_margin_is_that_of_the_worst_tap() -> None:
    whole = {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])}
    matching = Matching.of(Whole(torch.zeros(2), whole), {"a": 0.5, "b": 0.9})
    seen = {"a": torch.tensor([[1.0, 1.0]]), "b": torch.tensor([[1.0, 1.0]])}
    assert float(matching.margin(seen)) == pytest.approx(10 * (1 / math.sqrt(2) - 0.9))
    last = Matching.of(Whole(torch.zeros(2), whole), 0.7)
    assert last.wanted == {"b": 0.7}
    assert float(last.margin(seen)) > 0
    with pytest.raises(OptionError, match="no tap `c` to match at; there are: a, b"):
        Matching.of(Whole(torch.zeros(2), whole), {"c": 0.5})
    with pytest.raises(OptionError, match="cannot be looked at"):
        Matching.of(Whole(torch.zeros(2), {}), 0.5)


def test_a_control_is_the_mask_elsewhere() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:2, :3] = True
    places = moved(mask, torch.Generator().manual_seed(0))
    assert places.sum((1, 2)).tolist() == [6] * len(places)
    assert len({tuple(each.flatten().tolist()) for each in places}) > 1


def test_the_mean_of_matches() -> None:
    one = Match(spatial={"a": 0.2}, pooled={"a": 0.4}, divergence=1.0)
    other = Match(spatial={"a": 0.4}, pooled={"a": 0.8}, divergence=3.0)
    assert mean_of([one, other]).last == pytest.approx(0.6)
    assert mean_of([one, other]).divergence == 2.0
    assert Match(spatial={}, pooled={}, divergence=0.0).last is None


def test_what_is_asked_for_is_kept(bundled: expcam.Classifier, cat: expcam.Explanation) -> None:
    assert cat.match.last is not None
    assert cat.match.last < 0.9
    found = expcam.explain_image(bundled, cat.prepared(bundled.device), match=0.9)
    assert found.objective == "matching"
    assert found.matches
    assert found.holds
    assert found.match.last is not None
    assert found.match.last >= 0.9
    assert found.area >= cat.area
    tap = next(iter(found.match.pooled))
    with pytest.raises(OptionError, match=f"no tap `nowhere`.*{tap}"):
        expcam.explain_image(bundled, cat.prepared(bundled.device), match={"nowhere": 0.5})
    with pytest.raises(OptionError, match=r"match 1.5 is out of range"):
        expcam.explain_image(bundled, cat.prepared(bundled.device), match=1.5)
    for bad, said in (({}, "names no tap"), ("much", "`much` is no number")):
        with pytest.raises(OptionError, match=said):
            expcam.explain_image(bundled, cat.prepared(bundled.device), match=bad)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="goes with objective `matching`"):
        expcam.explain_image(bundled, cat.prepared(bundled.device), match=0.5, objective="both")
