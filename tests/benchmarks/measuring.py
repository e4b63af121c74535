"""How a row of the table is measured: ours and what it is beside in turn, several times, and the ratio each time."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[], float]
"""Measures once: a rate, seconds, or megabytes."""


@dataclass(frozen=True)
class Bar:
    """What the ratio of ours to something is to be: at least or at most `value`."""

    value: float
    at_least: bool

    def met_by(self, ratio: float) -> bool:
        """Whether it is."""
        return ratio >= self.value if self.at_least else ratio <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"


def at_least(value: float) -> Bar:
    """Rates: the more, the better."""
    return Bar(value, at_least=True)


def at_most(value: float) -> Bar:
    """Seconds and megabytes: the less, the better."""
    return Bar(value, at_least=False)


@dataclass(frozen=True)
class Beside:
    """What a row is measured beside: a limit, a reference, or a fixed number.

    Attributes:
        name: what it is.
        values: in the row's unit, one for each time that ours was measured.
        bar: what the ratio is to be; None for no bar.
    """

    name: str
    values: list[float]
    bar: Bar | None


@dataclass(frozen=True)
class Row:
    """One kind of work: `ours` in `unit`, several times, and what it is beside."""

    work: str
    unit: str
    ours: list[float]
    besides: list[Beside]

    @property
    def median(self) -> float:
        """Of ours."""
        return statistics.median(self.ours)

    def ratios(self, beside: Beside) -> list[float]:
        """Ours over theirs, pair by pair."""
        return [a / b for a, b in zip(self.ours, beside.values, strict=True)]

    def cells(self) -> list[list[str]]:
        """Lines of the table: medians, the smallest and the largest ratio, and whether the bar is met."""
        lines: list[list[str]] = []
        if not self.besides:
            return [[self.work, f"{self.median:,.4g} {self.unit}", "", "", "", ""]]
        for beside in self.besides:
            ratios = self.ratios(beside)
            ratio = statistics.median(ratios)
            lines.append(
                [
                    "" if lines else self.work,
                    "" if lines else f"{self.median:,.4g} {self.unit}",
                    beside.name,
                    f"{statistics.median(beside.values):,.4g} {self.unit}",
                    f"{ratio:.2f} ({min(ratios):.2f} … {max(ratios):.2f})",
                    "" if beside.bar is None else f"{beside.bar}: {'met' if beside.bar.met_by(ratio) else 'missed'}",
                ]
            )
        return lines


def compare(
    work: str, unit: str, ours: Measure, besides: Sequence[tuple[str, Measure | float, Bar | None]], *, repeats: int = 3
) -> Row:
    """Measure ours and everything beside it in turn, `repeats` times; a number stands for itself."""
    measured: list[list[float]] = [[] for _ in range(len(besides) + 1)]
    for _ in range(repeats):
        measured[0].append(ours())
        for values, (_, theirs, _) in zip(measured[1:], besides, strict=True):
            values.append(theirs() if callable(theirs) else float(theirs))
    named = zip(besides, measured[1:], strict=True)
    return Row(work, unit, measured[0], [Beside(name, values, bar) for (name, _, bar), values in named])
