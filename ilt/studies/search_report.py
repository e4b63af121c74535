"""The report of a search: `search.json`, `search.md` and figures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from ilt.evaluation.figure_style import write
from ilt.evaluation.statistics import mean_interval_of_runs
from ilt.evaluation.tables import markdown_table, short
from ilt.studies.search_figures import figures_of_search
from ilt.tracking.run_folder import read_results
from ilt.tracking.store import write_json, write_text


def write_report(
    study: optuna.Study,
    folder: Path,
    runs: Sequence[Path],
    table: str,
    *,
    winner: FrozenTrial,
    finalists: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Write `search.json`, `search.md` and the figures to the folder, and return the content of `search.json`.

    Args:
        study: a study with at least one complete trial.
        runs: folders of the winner's finished runs with fresh training seeds.
        table: a Markdown table of these runs.
        winner: the trial that was retrained.
        finalists: what the winner was chosen by; see `ilt.studies.finalists.evaluate_finalists`.
    """
    results = [read_results(run) for run in runs]
    tested = np.array([result["return_mean"] for result in results])
    summary = {
        "study": study.study_name,
        "seeds": study.user_attrs["search"]["search.seeds"],
        "trials": [_describe(trial) for trial in study.trials],
        "finalists": list(finalists),
        "winner": _describe(winner),
        "retrained": {
            "runs": [str(run.relative_to(folder)) for run in runs],
            "seeds": study.user_attrs["search"]["search.fresh_seeds"],
            "selection_return_mean": float(np.mean([result["selection_return_mean"] for result in results])),
            "return_means": tested.tolist(),
            "return_mean": float(tested.mean()),
            "return_mean_interval": mean_interval_of_runs(tested),
            "expert_return_mean": results[0]["expert_return_mean"],
            "evaluated_on": results[0]["seeds"],
        },
        "scored_on_test_seeds": study.user_attrs["winners"],
    }
    write_json(folder / "search.json", summary)
    draws = figures_of_search(study)
    for name, draw in draws.items():
        write(draw, folder / f"{name}.png")
    write_text(folder / "search.md", _in_words(summary, table, list(draws)))
    return summary


def _describe(trial: FrozenTrial) -> dict[str, Any]:
    """Describe a trial. `value` of a pruned trial is its last reported return; `returns` are by training seed."""
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "returns": trial.user_attrs.get("returns"),
        "params": trial.params,
        "error": trial.user_attrs.get("error"),
    }


def _in_words(summary: dict[str, Any], table: str, figures: Sequence[str]) -> str:
    winner, again, trials = summary["winner"], summary["retrained"], summary["trials"]
    states = ", ".join(f"{n} {state}" for state, n in Counter(trial["state"] for trial in trials).items())
    test, scored = again["evaluated_on"], [str(n) for n in summary["scored_on_test_seeds"]]
    names = list(dict.fromkeys(name for trial in trials for name in trial["params"]))
    ranked = sorted(trials, key=lambda trial: -trial["value"] if trial["state"] == "complete" else np.inf)
    rows = [
        [
            str(trial["trial"]),
            trial["state"],
            "–" if trial["value"] is None else f"{trial['value']:.1f}",
            ", ".join(f"{value:.1f}" for value in trial["returns"] or []) or "–",
            *(short(trial["params"].get(name)) for name in names),
            (trial["error"] or "")[:200],
        ]
        for trial in ranked
    ]
    parts = [
        f"# {summary['study']}",
        f"{len(trials)} trials: {states}. A trial's value is its mean return on selection seeds, over training seeds "
        f"{_listed(summary['seeds'])}. A pruned trial's value is the last return that its first seed reported.",
        f"## The winner: trial {winner['trial']}",
        markdown_table(["key", "value"], [[name, short(value)] for name, value in winner["params"].items()]),
        f"In the search: {winner['value']:.1f} on selection seeds. One of the largest of many values is optimistic.",
        *_choice(summary["finalists"]),
        f"Retrained with fresh seeds {_listed(again['seeds'])}: {again['selection_return_mean']:.1f} on selection "
        f"seeds, and **{again['return_mean']:.1f}** on {test['count']} {test['block']} seeds "
        "(95 % interval over runs: {:.1f} … {:.1f}".format(*again["return_mean_interval"])
        + ")."
        + ("" if again["expert_return_mean"] is None else f" The expert reaches {again['expert_return_mean']:.1f}."),
        *(
            [f"Trials {', '.join(scored)} were each scored on test seeds, because this search was extended."]
            if len(scored) > 1
            else []
        ),
        table,
        "## All trials",
        markdown_table(["trial", "state", "value", "by seed", *names, "error"], rows),
        *(f"![{name}]({name}.png)" for name in figures),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _choice(finalists: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the winner was chosen by, in words and a table; nothing if it has simply the highest value."""
    if len(finalists) == 1:
        return []
    first, *others = finalists
    rows = [[str(first["trial"]), str(first["episodes"]), f"{first['return']:.1f}", "–", "–", "–"]]
    for each in others:
        low, high = each["interval"]
        numbers = [f"{each['return']:.1f}", f"{each['difference']:+.1f}", f"{low:.1f} … {high:.1f}"]
        rows.append([str(each["trial"]), str(each["episodes"]), *numbers, each["outcome"]])
    columns = ["trial", "episodes", "return", f"− trial {first['trial']}", "95 % confidence sequence", "outcome"]
    return [
        "The best trials acted in new selection episodes, until each was better or worse than the one with the highest "
        "value, or the episodes were used up. The winner has the highest mean of those that are not worse.",
        markdown_table(columns, rows),
    ]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
