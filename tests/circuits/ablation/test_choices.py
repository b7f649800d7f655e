import torch

from expcam.circuits.ablation.choices import CIRCUIT, RANDOM, choices, matched


def test_the_best_of_every_layer_and_as_many_at_random() -> None:
    scores = {
        "good": {"a": torch.tensor([3.0, 1.0, 2.0, 0.0]), "b": torch.tensor([[1.0, 5.0]])},
        "bad": {"a": -torch.tensor([3.0, 1.0, 2.0, 0.0]), "b": -torch.tensor([[1.0, 5.0]])},
    }
    rng = torch.Generator().manual_seed(0)
    found = list(choices(scores, [0.5, 0.1], 3, rng))
    assert [(c.method, c.draw, c.size) for c in found[:5]] == [
        ("good", 0, 0.5),
        ("bad", 0, 0.5),
        *((RANDOM, draw, 0.5) for draw in range(3)),
    ]
    good = found[0]
    assert good.keep["a"].tolist() == [True, False, True, False]
    assert good.keep["b"].tolist() == [[False, True]]
    assert good.complement["a"].tolist() == [False, True, False, True]
    # At least one of each layer, the same number of random ones.
    for choice in found[5:]:
        assert [int(keep.sum()) for keep in choice.keep.values()] == [1, 1]
    draws = {tuple(c.keep["a"].tolist()) for c in found if c.method == RANDOM}
    assert len(draws) > 1


def test_random_parts_match_a_circuit_layer_by_layer() -> None:
    own = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False, True, False, False])}
    found = list(matched(own, 4, torch.Generator().manual_seed(0)))
    assert found[0].method == CIRCUIT
    assert found[0].size == 3 / 7
    assert len(found) == 5
    for choice in found[1:]:
        assert (choice.method, choice.size) == (RANDOM, 3 / 7)
        assert [int(keep.sum()) for keep in choice.keep.values()] == [2, 1]
