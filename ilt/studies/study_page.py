"""A study's files for readers and for programs: the page `study.md` with all tables, and `study.json`."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ilt.evaluation.tables import escaped, markdown_table
from ilt.studies.plan import FINISHED, NEW, Plan, State
from ilt.studies.study_findings import findings, verdict
from ilt.studies.study_tables import METRICS, SELECTION, Cell, details, has_one_expert, overview, unique

_OF_THE_STUDY = ("title", "question", "hypothesis", "conclusion", "metric", "bar", "lowest_bar")
"""The study's keys in `study.json`."""


def before_and_after(plan: Plan) -> list[str]:
    """Return the study's question, what was expected before, and what was found after, as far as they are given."""
    before = [f"Hypothesis: {text}"] if (text := plan.study["hypothesis"]) else []
    after = [f"Conclusion: {text}"] if (text := plan.study["conclusion"]) else []
    return [*([question] if (question := plan.study["question"]) else []), *before, *after]


def study_markdown(plan: Plan, cells: Sequence[Cell], states: Sequence[State], *, made: str) -> str:
    """Return `study.md` as text.

    Args:
        states: the state of each of the plan's jobs.
        made: when and from what it was made.
    """
    n_finished = sum(state.status == FINISHED for state in states)
    parts = [f"# {escaped(plan.study['title'])}\n"]
    parts += [f"{escaped(text)}\n" for text in before_and_after(plan)]
    parts += [f"{n_finished} of {len(plan.jobs)} jobs finished. {made}\n"]
    if plan.overrides:
        parts.append(f"With {', '.join(f'`{each}`' for each in plan.overrides)}.\n")
    if n_finished:
        parts += [
            f"{escaped(METRICS[plan.study['metric']].capitalize())}:\n",
            markdown_table(*overview(plan, cells)),
            *([f"{escaped(said)}\n"] if (said := verdict(plan, cells)) else []),
            f"{escaped(' '.join(findings(plan, cells)))}\n",
            f"{provenance_of(cells)}\n",
        ]
    for row in unique(cell.row for cell in cells if cell.runs):
        own = [cell for cell in cells if cell.row == row]
        parts += [
            f"## {escaped(row)}\n",
            *([] if own[0].metric == SELECTION else [_references(own)]),
            markdown_table(*details(own)),
        ]
    pairs = zip(plan.jobs, states, strict=True)
    open_jobs = [[job.folder, state.status] for job, state in pairs if state.status not in (FINISHED, NEW)]
    if open_jobs:
        parts += ["## Failed or not finished\n", markdown_table(["run", "status"], open_jobs)]
    return "\n".join(parts)


def _references(cells: Sequence[Cell]) -> str:
    numbers = next(cell for cell in cells if cell.runs).numbers
    random = f"random policy {numbers['random_return']:.1f}"
    said = f"expert {numbers['expert_return']:.1f}, {random}" if has_one_expert(cells) else random
    return f"{said[0].upper()}{said[1:]}.\n"


def provenance_of(cells: Sequence[Cell]) -> str:
    """Return sentences that say what the numbers are made of: seeds, episodes, intervals, commits."""
    runs = [run for cell in cells for run in cell.runs]
    episodes = _counted(f"{len(run.episodes['seed']):,}" for run in runs)
    weights = _counted(str(run.results["reported_checkpoint"]) for run in runs)
    commits = _counted(str(run.results["git_commit"])[:12] for run in runs)
    if cells[0].metric == SELECTION:
        return (
            "Each number is a mean over training seeds of the return on selection seeds, which are for choices only. "
            f"Weights: {weights}. Intervals are Student's t over training seeds. Commits: {commits}."
        )
    return (
        f"Each number is a mean over training seeds and held-out test episodes ({episodes} per run), on which expert "
        f"and random policy are scored too. Weights: {weights}. The 95 % intervals cover training seeds and episodes "
        "(two-way, Student's t); with one seed, episodes alone (bootstrap). IQM is the mean over seeds without the "
        "best and the worst quarter. Beside the number of seeds at the bar is the exact 95 % lower bound of their "
        "share among all training seeds. Performance is 0 for the random policy and 1 for the expert. "
        f"Commits: {commits}."
    )


def _counted(values: Iterable[str]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count} runs)" for value, count in counts.most_common())


def study_json(plan: Plan, cells: Sequence[Cell], states: Sequence[State]) -> dict[str, Any]:
    """Return the content of `study.json`: what was asked, every cell, and the folders of its runs."""
    status = {job.folder: state.status for job, state in zip(plan.jobs, states, strict=True)}
    return {
        "study": plan.name,
        **{key: plan.study[key] for key in _OF_THE_STUDY},
        "overrides": list(plan.overrides),
        "n_jobs": len(plan.jobs),
        "n_finished": sum(state.status == FINISHED for state in states),
        "findings": findings(plan, cells),
        "cells": [
            {
                "row": cell.row,
                "column": cell.column,
                "sweeps": unique(job.sweep for job in cell.jobs),
                "misses": cell.misses,
                "by_seed": cell.by_seed,
                **cell.numbers,
                "n_episodes": len(cell.runs[0].episodes["seed"]) if cell.runs else None,
                "commits": unique(str(run.results["git_commit"]) for run in cell.runs),
                "runs": {job.folder: status[job.folder] for job in cell.jobs},
            }
            for cell in cells
        ],
    }
