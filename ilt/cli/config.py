"""Schemas of the commands: the keys at the top of each one's config."""

from dataclasses import dataclass

from ilt.schema import MAPPING, NAME, TEXT, Rule, component, key, list_of

_SEEDS = Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000")
_FIT_SEEDS = Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000")
_RUN = Rule(TEXT.allows, "the folder of a finished run, such as outputs/runs/NAME")
_RUNS = Rule(TEXT.allows, "a folder that holds finished runs, such as outputs/multirun/NAME")
_POLICIES = Rule(
    lambda v: MAPPING.allows(v) and len(v) > 0 and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
    "a mapping from names to policies, such as +policies.student=outputs/runs/NAME",
)
_SUBSETS = Rule(
    lambda v: MAPPING.allows(v) and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
    "a mapping from names to PARAMETER:LOW:HIGH, such as +subsets.windy=wind_power:0.75:1",
)


@dataclass(kw_only=True)
class _Command:
    outputs: str = key("outputs", "Where everything is written.")
    n_envs: int = key(256, "Active episodes in each process; no result depends on it.", ge=1)
    processes: int | None = key(None, "That run rollouts; null for one a core. No result depends on it.", ge=1)
    threads: int | None = key(1, "Torch's CPU threads for training; null leaves it to torch.", ge=1)


@dataclass(kw_only=True)
class _Trusting(_Command):
    trust: list[str] = key([], "Packages beside ilt whose code may be run for somebody else's run.")


@component("command", "train")
class Train(_Command):
    """From an expert to a scored student."""

    seed: int = key(0, "Decides weights, order of windows and dropout.", ge=0)
    resume: bool = key(True, "Go on where a killed run stopped; false: set it aside and begin afresh.")
    run_name: str = key("???", "The run's folder.")


@component("command", "expert")
class Expert(_Command):
    """Train an expert, or find it."""


@component("command", "collect")
class Collect(_Command):
    """Collect demonstrations, or find them."""


@component("command", "evaluate")
class Evaluate(_Trusting):
    """Score a trained run again."""

    run: str = key("???", "The run's folder.", rule=_RUN)
    seeds: str = key("test:1000", "Which episodes.", rule=_SEEDS)
    checkpoint: str | None = key(None, "null for the run's reported one.", choices=("last", "best"))
    context_length: int | None = key(None, "Steps the student looks back on; null for those it was trained with.", ge=1)
    deterministic: bool = key(True, "The student's most likely action, or a sample.")


@component("command", "compare")
class Compare(_Trusting):
    """Several policies on the same seeds."""

    name: str = key("???", "Of the folder in outputs/comparisons, before its hash.", rule=NAME)
    policies: dict[str, str] = key(
        "???", "By name: a run's folder or a pattern of several, or an expert.", rule=_POLICIES
    )
    reference: str | None = key(
        None, "Which of them the others are compared with; null for the first.", rule=NAME.or_null()
    )
    seeds: str = key("test:1000", "Which episodes.", rule=_SEEDS)
    deterministic: bool = key(True, "Each policy's most likely action, or a sample.")
    subsets: dict[str, str] = key({}, "Episodes in which what was drawn lies between two quantiles.", rule=_SUBSETS)
    video: list[str] | None = key(
        None,
        "Policies shown side by side, in the episode that is most like all their medians.",
        rule=list_of(NAME).or_null(),
    )


@component("command", "probe")
class Probe(_Trusting):
    """What a trained student knows about what its environment hides."""

    run: str = key("???", "The run's folder; its env must hide something.", rule=_RUN)
    other: str | None = key(None, "Another run of the same env to compare with.")
    fit_seeds: str = key("selection:1000", "Episodes that probes are fitted on.", rule=_FIT_SEEDS)
    seeds: str = key("test:1000", "Others, that they are scored on.", rule=_SEEDS)
    steps: list[int] = key([0, 1, 2, 4, 8, 16, 32, 64, 128, 200], "Since the start of the episode.", ge=0)
    checkpoint: str | None = key(None, "null for the run's reported one.", choices=("last", "best"))


@component("command", "report")
class Report(_Trusting):
    """One table and one page over several runs."""

    runs: str = key("???", "A folder; every run below it is a row.", rule=_RUNS)
    example: str | None = key(None, "Whose episodes the page shows; null for the median selection-seed return.")
    videos: bool = key(True, "Of the example's best, median and worst episode.")


@component("command", "sync")
class Sync(_Command):
    """Upload the W&B runs that were kept offline."""

    dry_run: bool = key(False, "Say what would be uploaded, and stop there.")


@component("command", "dashboard")
class Dashboard(_Command):
    """A W&B workspace over all runs of a project."""

    project: str = key("ilt", "As logger.project.")
    entity: str | None = key(None, "User or team; null for the key's default.")


@component("command", "list")
class List(_Command):
    """Runs and artifacts below `outputs`."""

    kind: str | None = key(
        None,
        "Of what; null for everything.",
        choices=("runs", "experts", "demos", "rounds", "rollouts", "comparisons"),
    )


@component("command", "clean")
class Clean(_Command):
    """Take away what failed runs left behind."""

    yes: bool = key(False, "Delete without asking.")
    hours: float = key(24.0, "Unfinished runs are left alone for so long.", ge=0)
