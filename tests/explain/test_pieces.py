import torch

from expcam.explain.pieces import pieces, specks


def test_pieces_touch_at_corners_too() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = mask[4, 5] = True
    found = pieces(mask)
    assert found.shape == (2, 6, 6)
    assert sorted(int(each.sum()) for each in found) == [2, 2]
    assert torch.equal(found.any(0), mask)
    assert pieces(torch.zeros(3, 3, dtype=torch.bool)).shape == (0, 3, 3)


def test_specks_are_pieces_of_less_than_a_share_of_the_mask() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[:3, :3] = True  # 9 of 12 pixels
    mask[5, 5] = mask[6, 6] = True
    mask[8, 0] = True
    assert not specks(mask, 1 / 12).any()
    assert specks(mask, 1.01 / 12).nonzero().tolist() == [[8, 0]]
    assert specks(mask, 2.01 / 12).nonzero().tolist() == [[5, 5], [6, 6], [8, 0]]


def test_the_largest_piece_is_no_speck() -> None:
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[::2, ::2] = True
    mask[0, 1] = True
    assert int((mask & ~specks(mask, 0.5)).sum()) == 3
    mask[0, 1] = False
    assert not specks(mask, 0.5).any()
    assert not specks(torch.zeros(3, 3, dtype=torch.bool), 0.5).any()
