"""Run a named set of sweeps of `ilt train`, and compare their runs in a table: `ilt study zoo`.

Heavy modules are imported only when needed.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import app, check_overrides
from ilt.cli.study_jobs import compose_cells, config_of_jobs, make_plan, of_the_runs
from ilt.cli.sweep import Summary
from ilt.machine import check_environment
from ilt.schema import ConfigError, PlainError, check, complete, named, schema_of
from ilt.settings import check_config
from ilt.studies.plan import FAILED, FINISHED, PLAN, Plan, State, StudyJob, duration, estimate, progress, state_of
from ilt.studies.study_report import report_study

log = logging.getLogger(__name__)

Launch = Callable[[DictConfig, Sequence[Sequence[str]]], Any]
"""Runs one job per list of overrides, composed as a config says."""


def run_study(config: DictConfig, arguments: Sequence[str], loader: ConfigLoader, launch: Launch) -> None:
    """Plan a study, run its wanted jobs that are not finished, and write its tables.

    Args:
        config: the command's config.
        arguments: its overrides. Those that are not the command's own apply to every job.

    Raises:
        ConfigError: before anything is written, if a job's config cannot be composed or none can run here.
        PlainError: at the end, if a job failed.
    """
    HydraConfig.instance().set_config(config)
    check_overrides(config, arguments)
    study = _checked_study(config)
    folder = Path(config.hydra.sweep.dir)
    if config.report and (known := _last_plan(study, arguments, folder)) is not None:
        report_study(known, folder)
        return
    log.info("composing the configs of all jobs")
    jobs_config = config_of_jobs(config, folder)
    cells = list(compose_cells(study, arguments, loader, jobs_config))
    plan = make_plan(config, study, arguments, cells)
    if config.report:
        report_study(plan, folder)
        return
    states = [state_of(job, folder) for job in plan.jobs]
    pairs = list(zip(plan.jobs, states, strict=True))
    left = [job for job, state in pairs if job.wanted and (state.status != FINISHED or not config.resume)]
    log.info("%s", progress(plan, states))
    if left:
        configs = [cell.config for cell in cells if any(job.folder in cell.folders.values() for job in left)]
        _check_machine(configs, fatal=not config.dry_run)
        if names := _experts_to_train(configs):
            log.info("not counting the training of experts: %s", ", ".join(names))
    if config.dry_run:
        _list_jobs(plan, states)
        return
    plan.write(folder)
    try:
        if left:
            launch(jobs_config, [[*job.overrides] for job in left])
    finally:
        states = report_study(plan, folder)
    status = {job.folder: state.status for job, state in zip(plan.jobs, states, strict=True)}
    failed = [job.folder for job in left if status[job.folder] != FINISHED]
    if failed:
        reason = status[failed[0]]
        raise PlainError(f"{len(failed)} of {len(left)} jobs are not finished, such as {failed[0]}: {reason}")


def _checked_study(config: DictConfig) -> dict[str, Any]:
    """Check the command's own keys, and return those of its study, with interpolations for the jobs to resolve.

    The keys of jobs are checked in every job.
    """
    own = [key for key in named("command", "study").rules if key != "run_name"]
    check_config(OmegaConf.masked_copy(config, own), "study", partial=True)
    study: Any = OmegaConf.to_container(config.study, resolve=False)
    found = schema_of("study", study)
    complete(found, study)
    check(found, study, prefix="study")
    return dict(study)


def _last_plan(study: Mapping[str, Any], arguments: Sequence[str], folder: Path) -> Plan | None:
    """Return the plan of the last command, which saves composing it, if it was of the same study and overrides."""
    if not os.path.lexists(folder / PLAN):
        return None
    plan = Plan.read(folder)
    return plan if (plan.study, plan.overrides) == (study, of_the_runs(arguments)) else None


def _check_machine(configs: Sequence[DictConfig], *, fatal: bool) -> None:
    """Warn of jobs that cannot run on this machine. If none can, raise the first one's ConfigError."""
    errors = []
    for cfg in configs:
        try:
            check_environment(cfg)
        except ConfigError as error:
            errors.append(error)
    if errors and len(errors) == len(configs) and fatal:
        raise errors[0]
    for said in dict.fromkeys(map(str, errors)):
        log.warning("jobs will fail: %s", said)


def _experts_to_train(configs: Sequence[DictConfig]) -> list[str]:
    """Return the environments and names of experts that the jobs train because they are not in the store."""
    from ilt.envs.spec import EnvSpec
    from ilt.experts.base import make_expert
    from ilt.experts.find import canonical_config_of
    from ilt.rollout.recorded import Context
    from ilt.tracking.store import Store

    found: dict[str, None] = {}
    for cfg in configs:
        ctx = Context(EnvSpec.from_config(cfg.env), Store(Path(cfg.outputs)))
        made = make_expert(cfg.expert)
        if made.total_steps and not ctx.store.find("experts", cfg.expert.name, canonical_config_of(ctx, cfg.expert)):
            found[f"{cfg.expert.name} for {cfg.env.id} ({made.total_steps:,} steps)"] = None
    return list(found)


def _list_jobs(plan: Plan, states: Sequence[State]) -> None:
    """Print the wanted jobs, one line for those that differ only in their seed."""
    from ilt.evaluation.tables import print_table

    cells: dict[tuple[str, str, str], list[tuple[StudyJob, State]]] = {}
    for job, state in zip(plan.jobs, states, strict=True):
        if job.wanted:
            cells.setdefault((job.sweep, job.row, job.column), []).append((job, state))
    rows = []
    for place, own in cells.items():
        left = [job for job, state in own if state.status != FINISHED]
        found = estimate(left, plan, states)
        time = "–" if not left else "unknown" if found.unknown else duration(found.seconds)
        failed = sum(state.status.startswith(FAILED) for _, state in own)
        seeds = " ".join(str(job.seed) for job, _ in own)
        rows.append([*place, seeds, f"{len(own) - len(left)} of {len(own)}", str(failed or "–"), time])
    print_table(plan.study["title"], ["sweep", plan.rows, "student", "seeds", "finished", "failed", "time left"], rows)


class StudyProgress(Summary):
    """Say after each job how many are finished and how long the others take."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Do nothing; the sweeper writes the tables at the end."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Do nothing; the sweeper writes the tables at the end."""

    def _summarize_job(self, sweep: Path) -> None:
        plan = Plan.read(sweep)
        log.info("%s", progress(plan, [state_of(job, sweep) for job in plan.jobs]))


@app("study")
def _study(cfg: DictConfig) -> None:
    raise ConfigError("a study has several jobs; --run has no effect")


_ONLY_SHOW = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--run", "-r"}


def main() -> None:
    """Run the study that the command line names: `ilt study zoo` is short for `ilt study study=zoo -m`."""
    arguments = sys.argv[2:]
    if arguments and not arguments[0].startswith("-") and "=" not in arguments[0]:
        arguments[0] = f"study={arguments[0]}"
    if not {argument.partition("=")[0] for argument in arguments} & {*_ONLY_SHOW, "--multirun", "-m"}:
        arguments.append("--multirun")
    sys.argv[2:] = arguments
    _study()
