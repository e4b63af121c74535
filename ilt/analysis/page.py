"""The report as one self-contained HTML page. It needs no network, account or other file."""

import base64
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ilt.analysis.charts import (
    MOST_POINTS,
    MOST_SERIES,
    Band,
    band,
    cumulative_chart,
    curves_chart,
    histogram_chart,
    scatter_chart,
)
from ilt.analysis.episode_videos import EpisodeVideo
from ilt.analysis.page_cards import ROLLOUT, Card, cards, shown_groups
from ilt.analysis.page_tables import PageTable, group_table, run_table, time_table
from ilt.tracking.reading import UnreadableFileError, read_bytes, read_json, reading
from ilt.tracking.records import Group, RunRecord, by_environment, differing_keys, flatten, middle_run
from ilt.tracking.store import write_text

log = logging.getLogger(__name__)

CURVES = {
    ROLLOUT: "mean return on selection seeds",
    "val/action_accuracy": "action accuracy on validation demonstrations",
    "val/action_error": "action error on validation demonstrations",
    "val/loss": "loss on validation demonstrations",
}

PROBE_FIGURES = {
    "probe.png": (
        "What its activations encode",
        "R² of ridge regressions that predict hidden quantities from the model's activations, on held-out episodes, by "
        "steps since the start of the episode. R² is 1 for perfect predictions. Shuffled: fitted to the values of "
        "other episodes.",
    ),
    "attention.png": (
        "What it attends to",
        "Attention of the current state's token over the window, at three moments of one episode, by layer and head.",
    ),
}
"""Title and reading guide of each figure that `ilt probe` writes to a run's folder."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a page.

    Attributes:
        title: the folder of runs.
        groups: the runs, by config.
        example: the run whose episodes are shown.
        chosen: whether the user chose the example.
        videos: videos of episodes, by run name: the example's best, median and worst, and other runs' median.
        no_videos: why videos are missing, in sentences.
        left_out: names of the folders that are left out, and why.
        defaults: the default config, which the runs' configs are compared with.
        made: the provenance of this report, from `ilt.tracking.store.provenance`.
    """

    title: str
    groups: Sequence[Group]
    example: RunRecord
    chosen: bool
    videos: Mapping[str, Sequence[EpisodeVideo]]
    no_videos: Sequence[str]
    left_out: Sequence[tuple[str, str]]
    defaults: Mapping[str, Any]
    made: Mapping[str, Any]

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]


@dataclass(frozen=True, kw_only=True)
class EnvPart:
    """The page's content for one environment. Runs are compared only within an environment.

    There are no cards and no returns if the runs have no environment.
    """

    name: str
    example: RunRecord
    groups: Sequence[Group]
    cards: Sequence[Card]
    more: Sequence[Card]
    changed: Sequence[tuple[str, str, str]]
    group_table: PageTable
    run_table: PageTable
    legend: Sequence[tuple[str, str]]
    curves: Sequence["Shown"]
    returns: Sequence["Shown"]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # could control a terminal


@dataclass(frozen=True)
class Shown:
    """A chart: title, SVG or image URL, text description, reading guide, and legend (key style, label)."""

    title: str
    drawing: str
    description: str
    reading: str
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An episode with the data URLs of its video and poster, which are None if there is no video."""

    run: str
    episode: EpisodeVideo
    video: str | None
    poster: str | None


def write_page(report: Report, path: Path) -> None:
    """Write the page to `path`. All text from runs is escaped."""
    templates = files("ilt.analysis") / "templates"
    script = (templates / "report.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("ilt.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(
        report=report,
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        parents=_short(report.made["git_commit"]),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        what_ran=_what_ran(report.runs),
        parts=_parts(report),
        time_table=time_table(report.runs),
        several_tests=len({run.test for run in report.runs}) > 1,
        probe=probe_figures(report.example.path),
        clips={run: {each.kind: _clip(run, each) for each in videos} for run, videos in report.videos.items()},
    )
    write_text(path, _CONTROL.sub("?", page))


def _parts(report: Report) -> list[EnvPart]:
    parts = []
    first = {group.runs[0].path for group in shown_groups(report.groups, report.example)}
    for name, runs in by_environment(report.runs).items():
        paths = {run.path for run in runs}
        groups = [group for group in report.groups if group.runs[0].path in paths]
        example = report.example if report.example.path in paths else middle_run(groups[0].runs)
        all_cards = cards(groups, example) if example.is_scored else []
        is_first = [group.runs[0].path in first for group in groups] if all_cards else []
        parts.append(
            EnvPart(
                name=name,
                example=example,
                groups=groups,
                cards=list(compress(all_cards, is_first)),
                more=[card for card, shown in zip(all_cards, is_first, strict=True) if not shown],
                changed=_changed(groups, report.defaults),
                group_table=group_table(groups),
                run_table=run_table(groups),
                legend=_legend(groups) if len(groups) > 1 else [],
                curves=_curves(groups),
                returns=_returns(groups, example) if example.is_scored else [],
            )
        )
    return parts


def _what_ran(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Return all values of each property (commit, packages, machine, …) among the runs."""
    names = dict.fromkeys(name for run in runs for name in run.results["packages"])
    values = {
        "commit": [_short(run.results.get("git_commit")) for run in runs],
        "Python": [run.results.get("python") for run in runs],
        **{name: [run.results["packages"].get(name) for run in runs] for name in names},
        "environment": list(by_environment(runs)),
        "machine": [run.results.get("machine") for run in runs],
        "expert": [run.results.get("expert") for run in runs],
        "demonstrations": [run.results.get("demonstrations") for run in runs],
        "test seeds": [run.test_seeds for run in runs],
    }
    return {name: list(dict.fromkeys(str(v) for v in each if v is not None)) for name, each in values.items()}


def _short(commit: str | None) -> str | None:
    """Return a commit's first ten digits, with `+dirty` if the checkout had local changes."""
    return commit and str(commit)[:10] + ("+dirty" if str(commit).endswith("+dirty") else "")


def _changed(groups: Sequence[Group], defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return key, value and default for the keys whose value is the same in all runs but is not the default."""
    configs = [flatten(group.runs[0].config) for group in groups]
    differing, default = differing_keys(configs), flatten(defaults)
    changed = [key for key in differing_keys([configs[0], default]) if key not in differing]
    return [(key, configs[0].get(key, "–"), default.get(key, "–")) for key in changed]


def _legend(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return the key style and label of each group that charts show."""
    return [(f"series-{i}", group.label) for i, group in enumerate(groups[:MOST_SERIES])]


def _curves(groups: Sequence[Group]) -> list[Shown]:
    charts = []
    for name, title in CURVES.items():
        bands = {group.label: band([run.curve.get(name, {}) for run in group.runs]) for group in groups[:MOST_SERIES]}
        drawn = {label: each for label, each in bands.items() if each is not None}
        if drawn:
            svg = curves_chart(bands, ylabel=title.split(" on ")[0], log=name == "val/loss")
            words = "; ".join(_describe_band(label, each) for label, each in drawn.items())
            reading = f"Line: mean over training seeds. Band: lowest to highest. {_n_drawn(len(drawn), len(groups))}"
            title = title[0].upper() + title[1:]
            charts.append(Shown(title, Markup(svg), f"{title} over training. {words}.", reading))
    return charts


def _describe_band(label: str, drawn: Band) -> str:
    first, last = drawn.values[:, 0], drawn.values[:, -1]
    return (
        f"{label}: {first.mean():.4g} at step {drawn.steps[0]}, {last.mean():.4g} at step {drawn.steps[-1]} "
        f"(from {last.min():.4g} to {last.max():.4g} over {len(drawn.values)} training seeds)"
    )


def _returns(groups: Sequence[Group], example: RunRecord) -> list[Shown]:
    policies = {name: example.episodes[f"{name}_return"] for name in example.policies}
    student, expert = policies["student"], policies.get("expert")
    together = [group for group in groups if group.runs[0].test == example.test]
    pooled = {
        group.label: np.concatenate([run.episodes["student_return"] for run in group.runs])
        for group in together[:MOST_SERIES]
    }
    success_return = example.config["env"].get("success_return")
    reference = {} if expert is None else {"expert": expert}
    shown = [
        Shown(
            "Returns of the example",
            Markup(histogram_chart(policies, success_return=success_return)),
            "Histograms of the example's returns: " + _describe_returns(policies),
            f"{example.name}, {len(student)} test episodes of each policy. The very lowest returns are clipped to the "
            "left edge.",
            [(name, name) for name in policies] + ([] if success_return is None else [("threshold", "success")]),
        ),
        Shown(
            "Returns by config",
            Markup(cumulative_chart(pooled, expert)),
            "Share of episodes at or below each return: " + _describe_returns({**pooled, **reference}),
            f"All training seeds of a config are pooled. {_n_drawn(len(pooled), len(together))}"
            + (" Configs that were scored on other test seeds are not drawn." if len(together) < len(groups) else ""),
            [*(("expert-all", name) for name in reference), *_legend(together)],
        ),
    ]
    return shown if expert is None else [*shown, _beside_expert(example.name, student, expert)]


def _beside_expert(name: str, student: np.ndarray, expert: np.ndarray) -> Shown:
    better = 100 * float((student > expert).mean())
    drawn = min(len(student), MOST_POINTS)
    return Shown(
        "Student beside expert",
        Markup(scatter_chart(expert, student)),
        f"One point per test seed: the student's return over the expert's. The student's return is higher on "
        f"{better:.0f} % of {len(student)} seeds; the correlation is {_correlation(expert, student)}.",
        f"{name}. One point per test seed"
        + (f"; the first {drawn} of {len(student)}." if drawn < len(student) else "."),
        [("equal", "equal returns")],
    )


def _describe_returns(returns: Mapping[str, np.ndarray]) -> str:
    each = (
        f"{name}: mean {values.mean():.1f}, the middle half from {np.quantile(values, 0.25):.1f} to "
        f"{np.quantile(values, 0.75):.1f}, the lowest 5 % below {np.quantile(values, 0.05):.1f}"
        for name, values in returns.items()
    )
    return "; ".join(each) + "."


def _correlation(a: np.ndarray, b: np.ndarray) -> str:
    return "undefined" if np.ptp(a) == 0 or np.ptp(b) == 0 else f"{np.corrcoef(a, b)[0, 1]:.2f}"


def _n_drawn(drawn: int, there: int) -> str:
    return f"The {drawn} of {there} configs with the highest selection-seed return." if drawn < there else ""


def probe_figures(run: Path) -> list[Shown]:
    """Load the figures that `ilt probe` wrote to a run's folder. Return none if they are missing or damaged."""
    folder = run / "probe"
    try:
        with reading(folder / "probe.json"):
            words = dict(read_json(folder / "probe.json", within=run)["words"])  # attention only for some models
        return [
            Shown(title, str(_data_address(folder / name, "image/png", run)), str(words[name]), guide)
            for name, (title, guide) in PROBE_FIGURES.items()
            if name in words
        ]
    except UnreadableFileError as error:
        if folder.exists():
            log.warning("no probe figures: %s", error)
        return []


def _clip(run: str, episode: EpisodeVideo) -> Clip:
    video, poster = _data_address(episode.video, "video/mp4"), _data_address(episode.poster, "image/jpeg")
    return Clip(run=run, episode=episode, video=video, poster=poster)


def _data_address(file: Path | None, kind: str, within: Path | None = None) -> str | None:
    return None if file is None else f"data:{kind};base64,{base64.b64encode(read_bytes(file, within)).decode()}"
