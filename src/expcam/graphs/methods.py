"""The rows of the table from `compare`, as pages, pictures and printed lines show them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from expcam.errors import FileFormatError
from expcam.explain.compare.compare import OURS

NEEDED = ("method", "title", "area_kept", "area_robust", "seconds", "attribution")


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method beside the others.

    Attributes:
        method: Its key in `BASELINES`, or `OURS`.
        title: What people call it.
        area_kept: Share of pixels that it needs on the mean colour; NaN where no share is enough.
        area_robust: The same on all unseen backgrounds.
        seconds: Time that its map took; NaN where it did not run.
        attribution: Its map ``(H, W)``; None where it did not run.
        reason: Why it did not run; empty where it did.
    """

    method: str
    title: str
    area_kept: float
    area_robust: float
    seconds: float
    attribution: npt.NDArray[np.floating] | None
    reason: str

    @property
    def ours(self) -> bool:
        """Whether this is the mask, and not what it is compared with."""
        return self.method == OURS


def method_rows(table: pd.DataFrame) -> Sequence[MethodRow]:
    """The rows of a table from `compare`; without a column ``reason``, every reason is empty.

    Raises:
        FileFormatError: The table lacks a column.
    """
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise FileFormatError(f"the table has no column `{missing[0]}`; make it with compare()")
    reasons = table["reason"].fillna("") if "reason" in table.columns else [""] * len(table)
    return [
        MethodRow(
            method=row.method,
            title=row.title,
            area_kept=float(row.area_kept),
            area_robust=float(row.area_robust),
            seconds=float(row.seconds),
            attribution=row.attribution if isinstance(row.attribution, np.ndarray) else None,
            reason=str(reason),
        )
        for row, reason in zip(table.itertuples(), reasons, strict=True)
    ]
