"""Tables of results for the terminal, Markdown and loggers."""

import html
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ilt.schema import printable
from ilt.tracking.run_folder import performance_reference, read_results, shown

if TYPE_CHECKING:
    from ilt.data.episodes import Episodes
    from ilt.tracking.loggers import Run

log = logging.getLogger(__name__)

COLUMNS = ("policy", "return", "95 % interval", "p05", "worst 5 %", "success", "crashes", "performance")
VALIDATION = {
    "validation_loss": "validation loss",
    "action_accuracy": "action accuracy",
    "action_error": "action error",
}
"""Results on validation demonstrations, which need no environment, and what tables call them."""


def result_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows, one row per policy: the student's checkpoints, the expert and the random policy.

    For a student without an environment, the columns are its results on validation demonstrations.
    """
    if not is_scored(results):
        measured = [
            [f"student ({name})", *(short(metrics[key]) if key in metrics else None for key in VALIDATION)]
            for name, metrics in results["checkpoints"].items()
        ]
        return filled(("policy", *VALIDATION.values()), measured)
    reference = performance_reference(results)
    rows = {f"student ({name})": metrics for name, metrics in results["checkpoints"].items()}
    rows |= results["policies"]
    return filled(COLUMNS, [_row(name, metrics, reference) for name, metrics in rows.items()])


def is_scored(results: Mapping[str, Any]) -> bool:
    """Return whether a run's student was scored, as it is unless there is no environment (env=none)."""
    return results["return_mean"] is not None


def _row(name: str, metrics: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[str | None]:
    low, high = metrics["return_mean_interval"]
    zero, one = (0.0, 0.0) if reference is None else (reference["zero"], reference["one"])
    return [
        name,
        f"{metrics['return_mean']:.1f}",
        f"{low:.1f} … {high:.1f}",
        f"{metrics['return_p05']:.1f}",
        f"{metrics['return_cvar05']:.1f}" if "return_cvar05" in metrics else None,  # older results have none
        percent(metrics["success_rate"]),
        percent(metrics["crash_rate"]),
        f"{(metrics['return_mean'] - zero) / (one - zero):z.3f}" if one > zero else None if reference is None else "–",
    ]


def percent(rate: float | None) -> str | None:
    """Format a rate in percent. None stays None: the environment does not define the rate."""
    return None if rate is None else f"{100 * rate:.1f} %"


def filled(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> tuple[list[str], list[list[str]]]:
    """Drop the columns that are None in every row, and replace every other None with a dash."""
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    return [columns[i] for i in kept], [["–" if (cell := row[i]) is None else cell for i in kept] for row in rows]


def episode_rows(episodes_by_policy: "Mapping[str, Episodes]") -> list[dict[str, float]]:
    """Return one row per seed: each policy's return, and the student's episode length and termination."""
    student = episodes_by_policy["student"]
    return [
        {
            "seed": int(student.seeds[e]),
            **{f"{name}_return": float(episodes.returns[e]) for name, episodes in episodes_by_policy.items()},
            "student_steps": int(student.lengths[e]),
            "student_terminated": bool(student.terminated[e]),
        }
        for e in range(len(student))
    ]


def demonstration_rows(episodes: "Episodes") -> list[dict[str, float]]:
    """Return one row per demonstration: its seed, return, number of steps, and how it ended."""
    return [
        {
            "seed": int(episodes.seeds[e]),
            "return": float(episodes.returns[e]),
            "steps": int(episodes.lengths[e]),
            "terminated": bool(episodes.terminated[e]),
            "truncated": bool(episodes.truncated[e]),
        }
        for e in range(len(episodes))
    ]


def log_comparison(run: "Run", results: Mapping[str, Any], episodes: "Mapping[str, Episodes]") -> None:
    """Log a student's results: metrics with the seed block as prefix, and tables of results and episodes."""
    run.summarize({f"{results['seeds']['block']}/{name}": value for name, value in results.items()})
    columns, cells = result_table(results)
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    run.log_tables({"results": rows, "episodes": episode_rows(episodes)})


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. All columns but the first are aligned right. Without a terminal, no line is wrapped or cut."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if title:
        console.print(Text(printable(title), style="italic"), soft_wrap=True)  # a table would wrap it to its own width
    console.print(table)


def short(value: Any) -> str:
    """Return a value for a table: a float with four digits, a dash for None."""
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def show(path: Path) -> None:
    """Print a finished run's results, stages and folder, and the commands to try next."""
    results = read_results(path)
    scored = is_scored(results)
    episodes = f"{results['n_episodes']} test episodes of {results['env']}" if scored else "validation demonstrations"
    print_table(f"{episodes}, {path.name}", *result_table(results))
    print_table("", ["stage", "seconds"], [[name, f"{value:.1f}"] for name, value in results["seconds"].items()])
    for advice in _advice(results):
        log.warning(advice)
    log.info("everything is in %s", shown(path))
    run, runs = (shlex.quote(shown(place)) for place in (path, path.parent))
    module = results["env"].rpartition(":")[0].partition(".")[0]
    trust = f" trust=[{module}]" if module else ""
    trust = trust if scored else " env=NAME, which scores it in an environment"
    log.info("next: ilt evaluate run=%s%s (or ilt figures, ilt show), or ilt report runs=%s", run, trust, runs)


def _advice(results: Mapping[str, Any]) -> Iterator[str]:
    """Say what the numbers do not say by themselves: that the expert is bad, or the student far from it."""
    expert, random = results["expert_return_mean"], results["random_return_mean"]
    if expert is None:
        recorded = results["imitation"]["by_round"][0]["return_mean"]
        why = "there is no expert to compare with" if is_scored(results) else "nothing was scored, because env=none"
        yield f"{why}; the mean return of the demonstrations is {recorded:.1f}"
        if reference := performance_reference(results):
            zero, one = reference["zero"], reference["one"]
            yield f"performance is 0 at {zero:.1f} and 1 at {one:.1f}, the data set's own reference scores"
    elif expert <= random:
        yield (
            "the expert is no better than the random policy, so performance means nothing: choose another or train it "
            "for longer, and let expert.gate refuse such an expert"
        )
    elif results["return_mean"] - random < (expert - random) / 2:
        yield (
            "the student is far from its expert: more training (trainer.max_steps), more demonstrations "
            "(demos.n_episodes) or imitation=dagger may help"
        )


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown. Markup in cells is escaped."""
    heading, *body = [[escaped(cell) for cell in row] for row in (columns, *rows)]
    lines = [heading, ["---", *["--:" for _ in columns[1:]]], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def escaped(text: str) -> str:
    """Escape text in Markdown: no HTML, links, images or columns, in one line."""
    return re.sub(r"([|\[\\])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
