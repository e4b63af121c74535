"""The plan of a study: its jobs, which of them are finished, and how long the others take. Imports nothing heavy."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ilt.tracking.reading import UnreadableFileError, read_json, read_text, reading
from ilt.tracking.run_folder import CONFIG, ERROR, RESULTS, read_results
from ilt.tracking.store import write_json

PLAN = "plan.json"

FINISHED, FAILED, DAMAGED, UNFINISHED, NEW = "finished", "failed", "damaged", "not finished", "not started"
"""What a job's `status` begins with."""

_SHARED_STAGES = ("expert", "demonstrations")  # made once for all jobs


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyJob:
    """One run of `ilt train` in a study.

    Attributes:
        sweep: name of the sweep that it belongs to.
        folder: name of its folder in the study's folder.
        overrides: its overrides, without Hydra's own.
        row, column: its place in the study's table, in words.
        seed: its training seed. Jobs that differ only in their seed share a cell of the table.
        wanted: whether the command's `only` selects it.
        seconds: how long the study says it takes; None if it does not say.
        scored_by: what its results depend on besides the weights; see `ilt.tracking.run_folder.scored_by`.
    """

    sweep: str
    folder: str
    overrides: Sequence[str]
    row: str
    column: str
    seed: int
    wanted: bool = True
    seconds: float | None = None
    scored_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with the overrides of a command.

    Attributes:
        name: name of the study.
        study: the study's config, with the keys of `ilt.studies.config.Study`.
        rows: what the table's rows are, in words.
        overrides: the command's overrides that may change results.
        at_once: how many jobs run at the same time; None if it is unknown.
        jobs: in the order in which they run.
    """

    name: str
    study: Mapping[str, Any]
    rows: str
    overrides: Sequence[str]
    at_once: int | None
    jobs: Sequence[StudyJob]

    def write(self, folder: Path) -> None:
        """Write the plan to `plan.json` in the study's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """Read the plan of the study in a folder. Raise UnreadableFileError if it is damaged."""
        content = read_json(folder / PLAN, within=folder)
        with reading(folder / PLAN):
            return cls(**{**content, "jobs": [StudyJob(**job) for job in content["jobs"]]})


@dataclass(frozen=True)
class State:
    """What a job's folder contains.

    Attributes:
        status: `finished`, `not finished`, `not started`, or `failed: ` or `damaged: ` with the reason.
        results: the content of its `results.json`; None if it is not finished.
    """

    status: str
    results: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float | None:
        """How long a finished job took, without the stages that jobs share."""
        if self.results is None:
            return None
        seconds = self.results["seconds"]
        return max(0.0, float(seconds["total"] - sum(seconds.get(stage, 0.0) for stage in _SHARED_STAGES)))


def state_of(job: StudyJob, study: Path) -> State:
    """Return a job's state. Results that were scored in another way, as on fewer episodes, do not count."""
    folder = study / job.folder
    try:
        if os.path.lexists(folder / RESULTS):
            results = read_results(folder)
            with reading(folder / RESULTS):
                state = State(FINISHED, results)
                assert state.seconds is not None
                same = all(results.get(key) == value for key, value in job.scored_by.items())
                if same and "figures" in results["seconds"]:
                    return state
        if os.path.lexists(folder / ERROR):
            return State(f"{FAILED}: {next(iter(read_text(folder / ERROR, within=folder).splitlines()), '')}")
    except UnreadableFileError as error:
        return State(f"{DAMAGED}: {error}".replace(f"{folder}/", ""))
    return State(UNFINISHED if os.path.lexists(folder / CONFIG) else NEW)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long jobs take one after the other.

    Attributes:
        seconds: of the jobs whose duration is known.
        measured, stated, unknown: how many jobs were estimated from finished ones, from `study.seconds`, or not.
    """

    seconds: float
    measured: int
    stated: int
    unknown: int

    def in_words(self, at_once: int | None) -> str:
        """Return a clause such as `about 3 h 20 min, 2 at once (by finished jobs)`."""
        if not self.measured + self.stated:
            return "a time that is unknown until the first job is finished"
        bases = {
            "by finished jobs": self.measured,
            "as the study says": self.stated,
            "of unknown length, not counted": self.unknown,
        }
        known = {words: number for words, number in bases.items() if number}
        basis = ", ".join(f"{number} {words}" if len(known) > 1 else words for words, number in known.items())
        together = {None: ", one after the other", 1: ""}.get(at_once, f", {at_once} at once")
        return f"about {duration(self.seconds / (at_once or 1))}{together} ({basis})"


def estimate(left: Iterable[StudyJob], plan: Plan, states: Sequence[State]) -> Estimate:
    """Estimate how long jobs take, from the seconds of finished ones.

    A job takes as long as the mean of the finished jobs that differ only in their seed; otherwise as those in the same
    row of the table; otherwise as the study says.
    """
    measured: dict[Any, list[float]] = {}
    for job, state in zip(plan.jobs, states, strict=True):
        if state.seconds is not None:
            for place in ((job.row, job.column), job.row):
                measured.setdefault(place, []).append(state.seconds)
    seconds, counts = 0.0, {"measured": 0, "stated": 0, "unknown": 0}
    for job in left:
        if similar := measured.get((job.row, job.column)) or measured.get(job.row):
            seconds, basis = seconds + fmean(similar), "measured"
        elif job.seconds is not None:
            seconds, basis = seconds + job.seconds, "stated"
        else:
            basis = "unknown"
        counts[basis] += 1
    return Estimate(seconds=seconds, **counts)


def progress(plan: Plan, states: Sequence[State]) -> str:
    """Return a sentence about the wanted jobs: how many are finished or failed, and how long the others take."""
    wanted = [(job, state) for job, state in zip(plan.jobs, states, strict=True) if job.wanted]
    left = [job for job, state in wanted if state.status != FINISHED]
    failed = sum(state.status.startswith((FAILED, DAMAGED)) for _, state in wanted)
    said = f"{plan.name}: {len(wanted) - len(left)} of {len(wanted)} jobs finished"
    said += f", {failed} failed" if failed else ""
    return f"{said}; the rest takes {estimate(left, plan, states).in_words(plan.at_once)}" if left else said


def duration(seconds: float) -> str:
    """Return a duration in words, such as `40 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
