import torch

import expcam
from expcam.classifier.choices import LEADING, Finding, Group, Pair
from tests.helpers import red_square


def test_the_margin_stands_at_the_leading_index_and_a_tie_goes_to_the_second_class() -> None:
    logits = torch.tensor([[1.0, 4.0, -2.0], [3.0, 3.0, 9.0]])
    pair = Pair(1, 0).logits(logits)
    assert pair.tolist() == [[0.0, 3.0], [0.0, 0.0]]
    assert (pair.argmax(1) == LEADING).tolist() == [True, False]


def test_between_two_classes_the_softmax_is_that_of_their_own_logits(
    detector: expcam.Classifier,
) -> None:
    x = red_square()[None]
    pair = detector.between(1, 2)
    with torch.no_grad():
        all_three, two = detector.logits(x)[0], pair.logits(x)[0]
    assert two.tolist() == [0.0, float(all_three[1] - all_three[2])]
    assert torch.allclose(two.softmax(0), all_three[[2, 1]].softmax(0))
    assert pair.module is detector.module
    assert detector.logits(x).shape == (1, 3)
    assert pair.compares
    assert not detector.compares


def test_a_finding_is_there_or_not_by_its_own_sigmoid() -> None:
    logits = torch.tensor([[1.0, 4.0], [3.0, -2.0], [5.0, 0.0]])
    two = Finding(1).logits(logits)
    assert two.tolist() == [[0.0, 4.0], [0.0, -2.0], [0.0, 0.0]]
    assert torch.allclose(two.softmax(1)[:, LEADING], logits[:, 1].sigmoid())
    assert (two.argmax(1) == LEADING).tolist() == [True, False, False]


def test_a_decision_takes_place_among_what_competes_for_it(detector: expcam.Classifier) -> None:
    whole, place = detector.deciding(1, None, multi_label=False)
    assert (whole, place) == (detector, 1)
    alone, place = detector.deciding(1, None, multi_label=True)
    assert (alone.logits(red_square()[None]).tolist(), place) == ([[0.0, 8.0]], LEADING)
    pair, place = detector.deciding(1, 0, multi_label=True)
    assert (pair.logits(red_square()[None]).tolist(), place) == ([[0.0, 6.0]], LEADING)


def test_a_group_has_the_summed_probability_of_its_members() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.9]])
    grouped = Group((2, 3)).logits(logits)
    assert grouped.shape == (1, 3)
    shares = logits.softmax(1)[0]
    expected = torch.stack([shares[2] + shares[3], shares[0], shares[1]])
    assert torch.allclose(grouped.softmax(1)[0], expected)
    # Neither of the two is first, together they are.
    assert int(logits.argmax()) == 1
    assert int(grouped.argmax()) == 0
