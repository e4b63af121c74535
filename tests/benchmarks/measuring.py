"""How a row of the table is measured: ours and what it is beside in turn, several times, and the ratio each time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Measure = Callable[[], float]
"""Measures once: a rate, seconds, or megabytes."""


@dataclass(frozen=True)
class Beside:
    """A limit, a reference, or a fixed number: a value for each time that ours was measured.

    `bar` is what the ratio of ours to it is to be, such as "≥ 0.85".
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
    """One kind of work: `ours` in `unit`, several times, and what it is beside."""

    work: str
    unit: str
    ours: list[float]
    besides: list[Beside]

    @property
    def median(self) -> float:
        return statistics.median(self.ours)

    def cells(self) -> list[list[str]]:
        """Lines of the table: medians, the smallest and the largest ratio, and whether the bar is met."""
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
    """Measure ours and everything beside it in turn, `repeats` times; a number stands for itself."""
    measured: list[list[float]] = [[] for _ in range(len(besides) + 1)]
    for _ in range(repeats):
        measured[0].append(ours())
        for values, (_, theirs, _) in zip(measured[1:], besides, strict=True):
            values.append(theirs() if callable(theirs) else float(theirs))
    named = zip(besides, measured[1:], strict=True)
    return Row(work, unit, measured[0], [Beside(name, values, bar) for (name, _, bar), values in named])


def seconds(work: Callable[[], object]) -> Measure:
    """How long it takes."""

    def measure() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measure


def per_second(work: Callable[[], int]) -> Measure:
    """How many of what it counts are done in a second."""

    def measure() -> float:
        started = time.perf_counter()
        return work() / (time.perf_counter() - started)

    return measure
