import torch

from expcam.circuits.flows import whole
from expcam.circuits.tracking import Tracked


def image() -> Tracked:
    """A tensor (1, 4, 2, 3) whose channels are followed, each element its own number."""
    rows = torch.arange(24.0).view(4, 1, 2, 3)
    return Tracked([whole("a", rows, torch.arange(4))], 4, rows.shape[1:], torch.Size([1, 4, 2, 3]))


def elements(tracked: Tracked) -> torch.Tensor:
    (flow,) = tracked.flows
    assert flow.columns is not None
    result = torch.zeros(tracked.count, *tracked.positions)
    result[flow.columns] = flow.value
    return result.movedim(0, tracked.axis)


def test_channels_are_found_along_their_new_dimension() -> None:
    last = image().shown(image().numbered().permute(0, 2, 3, 1))
    assert last.natural_axis() == 3
    found = last.along(3)
    assert found is not None
    whole_tensor = torch.arange(24.0).view(1, 4, 2, 3)
    assert torch.equal(elements(found), whole_tensor.permute(0, 2, 3, 1))
    assert last.along(1) is None


def test_flattened_pixels_are_channels_of_their_own() -> None:
    flat = image().shown(image().numbered().flatten(1))
    found = flat.along(1)
    assert found is not None
    assert torch.equal(elements(found), torch.arange(24.0)[None])
    assert found.flows[0].channels.tolist() == [n // 6 for n in range(24)]


def test_split_channels_are_along_no_dimension_until_they_meet_again() -> None:
    split = image().numbered().view(1, 2, 2, 2, 3)
    assert image().shown(split).natural_axis() is None
    shuffled = image().shown(split.transpose(1, 2).reshape(1, 4, 2, 3))
    found = shuffled.along(1)
    assert found is not None
    assert elements(found)[0, :, 0, 0].tolist() == [0, 12, 6, 18]


def test_what_is_filled_in_shows_nothing() -> None:
    padded = torch.nn.functional.pad(image().numbered() + 1, (1, 0)) - 1
    found = image().shown(padded).along(1)
    assert found is not None
    assert elements(found)[0, 1].tolist() == [[0, 6, 7, 8], [0, 9, 10, 11]]
