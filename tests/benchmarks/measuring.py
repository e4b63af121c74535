"""Measure rows of the table: alternate ours and its references several times, and take the ratio each time."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

Measure = Callable[[], float]
"""Takes one measurement: a rate, seconds, or megabytes."""


@dataclass(frozen=True)
class Beside:
    """A limit, a reference, or a fixed number, with one value per measurement of ours.

    `bar` is the target for the ratio of ours to it, such as "≥ 0.85".
    """

    name: str
    values: list[float]
    bar: str | None

    def verdict(self, ratio: float) -> str:
        if self.bar is None:
            return ""
        bound = float(self.bar[1:])
        return f"{self.bar}: {'met' if (ratio >= bound if self.bar[0] == '≥' else ratio <= bound) else 'missed'}"


@dataclass(frozen=True)
class Row:
    """One kind of work: repeated measurements of `ours` in `unit`, and the references."""

    work: str
    unit: str
    ours: list[float]
    besides: list[Beside]

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    def cells(self) -> list[list[str]]:
        """Return the lines of the table: medians, smallest and largest ratio, and whether the target is met."""
        first, lines = [self.work, f"{self.median:,.4g} {self.unit}"], []
        for beside in self.besides:
            ratios = [a / b for a, b in zip(self.ours, beside.values, strict=True)]
            ratio = statistics.median(ratios)
            there = f"{statistics.median(beside.values):,.4g} {self.unit}"
            spread = f"{ratio:.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            lines.append([*first, beside.name, there, spread, beside.verdict(ratio)])
            first = ["", ""]
        return lines or [[*first, "", "", "", ""]]


def compare(
    work: str, unit: str, ours: Measure, *besides: tuple[str, Measure | float, str | None], repeats: int = 3
) -> Row:
    """Measure ours and each reference in turn, `repeats` times; a reference may be a fixed number."""
    measured: list[list[float]] = [[] for _ in range(len(besides) + 1)]
    for _ in range(repeats):
        measured[0].append(ours())
        for values, (_, theirs, _) in zip(measured[1:], besides, strict=True):
            values.append(theirs() if callable(theirs) else float(theirs))
    named = zip(besides, measured[1:], strict=True)
    return announced(Row(work, unit, measured[0], [Beside(name, values, bar) for (name, _, bar), values in named]))


def announced(row: Row) -> Row:
    """Write a row to standard error, since the table comes when all rows are measured. Return it."""
    for line in row.cells():
        sys.stderr.write("  ".join(filter(None, line)) + "\n")
    return row


def seconds(work: Callable[[], object]) -> Measure:
    """Measure how many seconds the work takes."""

    def measure() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def per_second(work: Callable[[], int]) -> Measure:
    """Measure how many items the work completes per second; it returns their number."""

    def measure() -> float:
        started = time.perf_counter()
        return work() / (time.perf_counter() - started)

    return measure
