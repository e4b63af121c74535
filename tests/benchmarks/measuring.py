"""How one row of the table is measured: ours and its reference in turn, several times, medians of the ratios."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison. Rates are in `unit` per second; `ratio` is ours over the reference, pair by pair.

    Attributes:
        work, reference: what was measured, and beside what.
    """

    work: str
    reference: str
    unit: str
    ours: list[float]
    theirs: list[float]

    def cells(self) -> list[str]:
        """The row as text: medians, and the smallest and largest ratio."""
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return [
            self.work,
            f"{statistics.median(self.ours):,.0f} {self.unit}/s",
            self.reference,
            f"{statistics.median(self.theirs):,.0f} {self.unit}/s",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})",
        ]


def compare(
    work: str, ours: Callable[[], float], reference: str, theirs: Callable[[], float], *, unit: str, repeats: int = 3
) -> Row:
    """Call both `repeats` times in turn; each returns a rate in `unit` per second."""
    pairs = [(ours(), theirs()) for _ in range(repeats)]
    return Row(work, reference, unit, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
