"""Results as tables, for a terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

COLUMNS = ("policy", "return", "95 % interval", "p05", "success", "crashes", "performance")


def result_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """One row per policy: the student's last and best weights, the expert, the random policy."""
    expert, random = results["expert_return_mean"], results["random_return_mean"]
    rows = {f"student ({name})": metrics for name, metrics in results["checkpoints"].items()}
    rows |= results["policies"]
    return [_row(name, metrics, expert, random) for name, metrics in rows.items()]


def _row(name: str, metrics: Mapping[str, Any], expert: float, random: float) -> list[str]:
    low, high = metrics["return_mean_interval"]
    span = expert - random
    return [
        name,
        f"{metrics['return_mean']:.1f}",
        f"{low:.1f} … {high:.1f}",
        f"{metrics['return_p05']:.1f}",
        f"{100 * metrics['success_rate']:.1f} %",
        f"{100 * metrics['crash_rate']:.1f} %",
        f"{(metrics['return_mean'] - random) / span:.3f}" if span else "–",
    ]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; numbers are aligned to the right. Where there is no terminal, no line is broken."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [columns, ["---", *["--:" for _ in columns[1:]]], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
