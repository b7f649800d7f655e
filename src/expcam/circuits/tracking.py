"""Where in a tensor its channels are, through every change of shape."""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from expcam.circuits.flows import Flow, rearranged


@dataclass(eq=False)
class Tracked:
    """A tensor in the making: its flows, and how their channels lie in it.

    Attributes:
        flows: As of the last tensor whose channels were along one dimension.
        count: Channels of that tensor.
        positions: Its other dimensions.
        shape: Of the tensor itself.
        axis: The dimension that its channels are along, where ``index`` is None.
        index: Else, for each element the one of that tensor that it shows, counted channel by
            channel; -1 where it shows none. Of the tensor's shape, on the CPU.
    """

    flows: list[Flow]
    count: int
    positions: torch.Size
    shape: torch.Size
    axis: int = 1
    index: Tensor | None = None
    _along: dict[int, "Tracked"] = field(default_factory=dict)

    def numbered(self) -> Tensor:
        """``index``, also where nothing has changed."""
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

    def natural_axis(self) -> int | None:
        """The one dimension that the channels are along; None where they are along several."""
        if self.index is None:
            return self.axis
        channels = self.channels()
        known = channels >= 0
        most = channels.amax() + 1
        varying = [
            axis
            for axis in range(channels.ndim)
            if bool(
                (
                    torch.where(known, channels, -1).amax(axis)
                    > torch.where(known, channels, most).amin(axis)
                ).any()
            )
        ]
        if not varying:
            return min(1, channels.ndim - 1)
        return varying[0] if len(varying) == 1 else None

    def along(self, axis: int) -> "Tracked | None":
        """The same tensor, its channels along one dimension; None where they are not."""
        axis %= len(self.shape)
        if self.index is None and self.axis == axis:
            return self
        if axis not in self._along:
            found = self._rearranged(axis)
            if found is None:
                return None
            self._along[axis] = found
        return self._along[axis]

    def _rearranged(self, axis: int) -> "Tracked | None":
        index = self.numbered().movedim(axis, 0)
        count, positions = index.shape[0], index.shape[1:]
        index = index.reshape(count, -1)
        size = max(1, prod(self.positions))
        known = index >= 0
        channels = torch.where(known, index // size, -1).amax(1)
        if not ((index // size == channels[:, None]) | ~known).all():
            return None
        places = torch.where(known, index % size, -1)
        whole = places[known.any(1)]
        if len(whole) and (whole == whole[:1]).all():
            places = whole[:1]
        flows = [
            rearranged(
                flow, channels.to(flow.value.device), places.to(flow.value.device), positions
            )
            for flow in self.flows
        ]
        flows = [flow for flow in flows if len(flow.channels)]
        return Tracked(flows, count, positions, self.shape, axis=axis)
