"""Where in a tensor the channels lie that are followed.

A *tracked* tensor is its flows together with where in the tensor their channels lie.
"""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from expcam.circuits.edges.flow import Flow, merged, rearranged, regrouped


@dataclass(eq=False)
class Tracked:
    """A tensor whose channels are followed: its flows, and where their channels lie in it.

    A change of shape moves elements and changes none. So the flows stay as they are, and only
    ``index`` says where each element has come from, until an operation needs the channels along
    one dimension again (see `along`).

    Attributes:
        flows: Of the last tensor whose channels were along one dimension.
        count: How many channels that tensor has.
        positions: Its other dimensions.
        shape: The shape of this tensor.
        axis: The dimension that the channels are along; only where ``index`` is None.
        index: For each element of this tensor the element of that one that it shows, counted
            channel by channel; -1 where it shows none. On the CPU.
    """

    flows: list[Flow]
    count: int
    positions: torch.Size
    shape: torch.Size
    axis: int = 1
    index: Tensor | None = None
    _along: dict[int, "Tracked"] = field(default_factory=dict)
    _axes: list[int] | None = None

    def numbered(self) -> Tensor:
        """``index``, also where no shape was changed."""
        if self.index is not None:
            return self.index
        numbers = torch.arange(self.count * prod(self.positions))
        return numbers.view(self.count, *self.positions).movedim(0, self.axis)

    def channels(self) -> Tensor:
        """For each element the channel that it shows; -1 where it shows none."""
        index = self.numbered()
        return torch.where(index < 0, -1, index // max(1, prod(self.positions)))

    def shown(self, index: Tensor) -> "Tracked":
        """The same flows in a tensor of another shape."""
        return Tracked(self.flows, self.count, self.positions, index.shape, index=index)

    def axes(self) -> list[int]:
        """The dimensions that the channels are along."""
        if self.index is None:
            return [self.axis]
        if self._axes is None:
            highest = self.channels()
            lowest = torch.where(highest < 0, highest.amax() + 1, highest)
            self._axes = [
                axis
                for axis in range(highest.ndim)
                if bool((highest.amax(axis) > lowest.amin(axis)).any())
            ]
        return self._axes

    def natural_axis(self) -> int:
        """The dimension that the channels are along; of several the longest."""
        longest = max(self.axes(), key=lambda axis: self.shape[axis], default=None)
        return min(1, len(self.shape) - 1) if longest is None else longest

    def along(self, axis: int) -> "Tracked":
        """The same tensor, its channels along one dimension.

        Where they are along others as well, what is counted as a channel is a slice.
        """
        axis %= len(self.shape)
        if self.index is None and self.axis == axis:
            return self
        if axis not in self._along:
            self._along[axis] = self._rearranged(axis)
        return self._along[axis]

    def _rearranged(self, axis: int) -> "Tracked":
        index = self.numbered().movedim(axis, 0)
        count, positions = index.shape[0], index.shape[1:]
        index = index.reshape(count, -1)
        size = max(1, prod(self.positions))
        known = index >= 0
        channels = torch.where(known, index // size, -1).amax(1)
        if ((index // size == channels[:, None]) | ~known).all():
            places = torch.where(known, index % size, -1)
            whole = places[known.any(1)]
            if len(whole) and (whole == whole[:1]).all():
                places = whole[:1]
            flows = [
                rearranged(f, channels.to(f.value.device), places.to(f.value.device), positions)
                for f in self.flows
            ]
        else:
            slices = index.view(count, *positions)
            flows = [regrouped(f, slices.to(f.value.device), size) for f in self.flows]
        flows = merged([flow for flow in flows if len(flow.channels)], count)
        return Tracked(flows, count, positions, self.shape, axis=axis)


def tracked(flows: list[Flow], shape: torch.Size, axis: int) -> Tracked:
    """A tensor whose channels are along one of its dimensions."""
    positions = torch.Size(side for d, side in enumerate(shape) if d != axis)
    return Tracked(merged(flows, shape[axis]), shape[axis], positions, shape, axis)
