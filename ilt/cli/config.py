"""Schemas of the commands: the top-level keys of their configs."""

from dataclasses import dataclass
from typing import ClassVar

from ilt.data.config import MINARI_ID
from ilt.rules import FOLDER, LARGEST_SEED, MAPPING, NAME, PROJECT, TEXT, Rule, list_of
from ilt.schema import component, key

_SEEDS = Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000")
_FIT_SEEDS = Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000")
_RUN = Rule(TEXT.allows, "the folder of a finished run, such as outputs/runs/NAME")
_RUNS = Rule(TEXT.allows, "a folder that contains finished runs, such as outputs/multirun/NAME")
_POLICIES = Rule(
    lambda v: MAPPING.allows(v) and len(v) > 0 and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
    "a mapping from names to policies, such as +policies.student=outputs/runs/NAME",
)
_SUBSETS = Rule(
    lambda v: MAPPING.allows(v) and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
    "a mapping from names to PARAMETER:LOW:HIGH, such as +subsets.windy=wind_power:0.75:1",
)


_ONLY = list_of(Rule(lambda v: TEXT.allows(v) or isinstance(v, int | float), "a sweep, a value or KEY:VALUE"))


@dataclass(kw_only=True)
class _Command:
    groups: ClassVar[tuple[str, ...]] = ()
    """The groups and parts of the command's config."""

    outputs: str = key("outputs", "Folder for all files that are written.")
    n_envs: int = key(64, "Active episodes in each process; does not affect results.", ge=1)
    processes: int | None = key(
        None, "Processes for rollouts; null for one per core. Does not affect results.", ge=1, le=1024
    )
    threads: int | None = key(1, "CPU threads of torch for training; null for torch's default.", ge=1, le=1024)


@dataclass(kw_only=True)
class _Trusting(_Command):
    trust: list[str] = key([], "Packages besides ilt whose code a loaded run may execute.")


@component("command", "train")
class Train(_Command):
    """Train and score a student."""

    groups: ClassVar[tuple[str, ...]] = (
        "env", "expert", "demos", "dataset", "head", "imitation", "model", "optimizer", "trainer", "callbacks",
        "evaluation", "logger", "search",
    )  # fmt: skip

    seed: int = key(0, "Seed for initial weights, window order and dropout.", ge=0, le=LARGEST_SEED)
    resume: bool = key(True, "Resume a killed run; false sets it aside and starts over.")
    run_name: str = key("???", "The run's folder.", rule=FOLDER)


@component("command", "study")
class Study(Train):
    """Run a named set of sweeps."""

    groups = (*Train.groups, "study")

    only: list[str | int | float] = key(
        [], "Run only these: a sweep, a value such as tiny, or KEY:VALUE such as seed:0. Tables show all.", rule=_ONLY
    )
    dry_run: bool = key(False, "Only list the jobs, and how long they take.")
    report: bool = key(False, "Only write the tables of what is finished.")


@component("command", "expert")
class Expert(_Command):
    """Train an expert, or find an existing one."""

    groups = ("env", "expert", "logger")


@component("command", "collect")
class Collect(_Command):
    """Collect demonstrations, or find existing ones."""

    groups = ("env", "expert", "demos", "logger")


@component("command", "export-minari")
class ExportMinari(_Command):
    """Write demonstrations as a Minari data set."""

    groups = ("env", "expert", "demos")

    id: str = key("???", "The new data set's id, such as lander/expert-v0.", rule=MINARI_ID)
    episodes: str | None = key(
        None, "An .npz file, or the folder of demonstrations; null for those that expert and demos name."
    )
    overwrite: bool = key(False, "Replace an existing data set.")
    author: str | None = key(None, "The author's name.")
    author_email: str | None = key(None, "An address for questions.")
    code_permalink: str | None = key(None, "Address of the code that made the episodes.")
    algorithm_name: str | None = key(None, "Who acted in the episodes; null for the expert's name.")
    description: str | None = key(None, "What the episodes are.")


@component("command", "evaluate")
class Evaluate(_Trusting):
    """Score a trained run again."""

    groups = ("env", "logger")

    run: str = key("???", "The run's folder.", rule=_RUN)
    seeds: str = key("test:1000", "Episodes to score the student on.", rule=_SEEDS)
    checkpoint: str | None = key(None, "Weights to load; null for the reported ones.", choices=("last", "best"))
    context_length: int | None = key(None, "Steps of context; null for the length that the run was scored with.", ge=1)
    target_return: float | None = key(
        None, "Return to ask of a return-conditioned student; null for the target that the run was scored with."
    )
    deterministic: bool = key(True, "Take the student's most likely action; false samples one.")


@component("command", "compare")
class Compare(_Trusting):
    """Compare policies on the same seeds."""

    groups = ("env", "logger")

    name: str = key("???", "Name of the folder in outputs/comparisons, without its hash.", rule=NAME)
    policies: dict[str, str] = key(
        "???", "By name: a run's folder, a pattern that matches several, or an expert.", rule=_POLICIES
    )
    reference: str | None = key(None, "The policy to compare the others with; null for the first.", rule=NAME.or_null())
    seeds: str = key("test:1000", "Episodes to compare the policies on.", rule=_SEEDS)
    deterministic: bool = key(True, "Take each policy's most likely action; false samples one.")
    until: str = key(
        "all",
        "Evaluate on all seeds, or in batches until each policy is better or worse than the reference, or equal.",
        choices=("all", "decided"),
    )
    margin: float | None = key(
        None,
        "Loss of mean return below which a policy is non-inferior to the reference; with until=decided, difference up "
        "to which policies are equal. To be chosen before any result; null for no such statement.",
        gt=0,
    )
    subsets: dict[str, str] = key({}, "Episodes whose randomized parameter lies between two quantiles.", rule=_SUBSETS)
    video: list[str] | None = key(
        None,
        "Policies to show side by side in an episode that is typical of all of them.",
        rule=list_of(NAME).or_null(),
    )


@component("command", "probe")
class Probe(_Trusting):
    """Probe a student for quantities that its environment hides."""

    groups = ("logger",)

    run: str = key("???", "The run's folder; its env must hide quantities from the student.", rule=_RUN)
    other: str | None = key(None, "Another run in the same env to compare with.")
    fit_seeds: str = key("selection:1000", "Episodes to fit the probes on.", rule=_FIT_SEEDS)
    seeds: str = key("test:1000", "Other episodes to score the probes on.", rule=_SEEDS)
    steps: list[int] = key([0, 1, 2, 4, 8, 16, 32, 64, 128, 200], "Steps since the start of the episode.", ge=0)
    checkpoint: str | None = key(None, "Weights to load; null for the reported ones.", choices=("last", "best"))


@component("command", "figures")
class Figures(_Command):
    """Redraw the figures of a finished run, comparison or sweep."""

    run: str = key("???", "The folder of a run, a comparison or a sweep.", rule=_RUN)
    width: float | None = key(None, "Inches: one column (3.3) or a page (6.8); null for both.", choices=(3.3, 6.8))


@component("command", "show")
class Show(_Command):
    """Show a run or an artifact."""

    run: str = key("???", "The folder of a run or of an artifact, such as outputs/runs/NAME.", rule=_RUN)


@component("command", "report")
class Report(_Trusting):
    """Write a table and an HTML page about several runs."""

    runs: str = key("???", "A folder; the report covers all runs below it.", rule=_RUNS)
    example: str | None = key(None, "Run whose episodes the page shows; null for the median run of the best config.")
    videos: bool = key(True, "Render the example's best, median and worst episode, and the others' median.")


@component("command", "sync")
class Sync(_Command):
    """Upload offline W&B runs."""

    dry_run: bool = key(False, "Only list what would be uploaded.")


@component("command", "dashboard")
class Dashboard(_Command):
    """Create a W&B workspace for all runs of a project."""

    project: str = key("ilt", "The W&B project, as in logger.project.", rule=PROJECT)
    entity: str | None = key(None, "User or team; null for the API key's default.")


@component("command", "list")
class List(_Command):
    """List runs and artifacts below `outputs`."""

    kind: str | None = key(
        None,
        "The kind to list; null for all.",
        choices=("runs", "experts", "demos", "rounds", "rollouts", "comparisons"),
    )


@component("command", "clean")
class Clean(_Command):
    """Delete failed, unfinished and replaced runs and artifacts."""

    yes: bool = key(False, "Delete without asking.")
    hours: float = key(24.0, "Keep unfinished runs for this many hours after the last write.", ge=0)
