"""Create a W&B workspace for all runs of a project: `ilt dashboard`, or `make dashboard`."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.machine import check_writable
from ilt.settings import check_config

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
CHOSEN_BY = "selection/return_mean"
"""The metric that hyperparameters are plotted against; test seeds are never used for selection."""

SWEPT = (
    "model.n_layer",
    "model.d_model",
    "dataset.context_length",
    "dataset.episodes",
    "optimizer.learning_rate",
    "trainer.max_steps",
)
"""Config keys that sweeps change most often."""


def build(entity: str, project: str) -> "Workspace":
    """Build the workspace from the metric names that `ilt train` and `ilt expert` log.

    Args:
        entity, project: where the runs to show are.
    """
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name="ilt",
        sections=_sections(),
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            pinned_columns=["run:displayName", "run:jobType", "summary:test/return_mean", f"summary:{CHOSEN_BY}"]
        ),
        auto_generate_panels=False,
    )


def as_json(workspace: "Workspace") -> dict[str, Any]:
    """Return the JSON that `workspace.save()` would send."""
    return workspace._to_model().model_dump(by_alias=True, mode="json")


def _sections() -> "list[Section]":
    import wandb_workspaces.reports.v2.interface as wr
    from wandb_workspaces.workspaces import Section

    setting = wr.Config("setting")  # the same for runs that differ only in their seed
    over_seeds: dict[str, Any] = {"groupby": setting, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    by_group: dict[str, Any] = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}

    def curve(metric: str, title: str, **grouping: Any) -> wr.LinePlot:
        return wr.LinePlot(title=title, x=STEP, y=[metric], title_x="training steps", **grouping)

    def column(metric: wr.Config | wr.SummaryMetric) -> wr.ParallelCoordinatesPlotColumn:
        return wr.ParallelCoordinatesPlotColumn(metric=metric)

    return [
        Section(
            name="Rollouts: mean and range over seeds",
            is_open=True,
            panels=[
                curve("rollout/return_mean", "Return on selection seeds", **over_seeds),
                curve("rollout/success_rate", "Success rate on selection seeds", **over_seeds),
                curve("rollout/crash_rate", "Crash rate on selection seeds", **over_seeds),
                wr.BarPlot(title="Return on test seeds", metrics=["test/return_mean"], **over_seeds),
            ],
        ),
        Section(
            name="Learning: by group",
            is_open=True,
            panels=[
                curve("train/loss", "Training loss", **by_group),
                curve("val/loss", "Validation loss", **by_group),
                curve("val/action_accuracy", "Action accuracy on validation demonstrations", **by_group),
            ],
        ),
        Section(
            name="Parameters against return",
            is_open=True,
            panels=[
                wr.ParallelCoordinatesPlot(
                    columns=[*(column(wr.Config(key)) for key in SWEPT), column(wr.SummaryMetric(CHOSEN_BY))]
                ),
                wr.ParameterImportancePlot(with_respect_to=CHOSEN_BY),
                *(wr.ScatterPlot(x=wr.Config(key), y=wr.SummaryMetric(CHOSEN_BY)) for key in SWEPT),
            ],
        ),
        Section(
            name="Results by episode",
            panels=[wr.WeavePanelSummaryTable(table_name=name) for name in ("results", "episodes")],
        ),
        Section(
            name="Episodes and figures",
            panels=[
                wr.MediaBrowser(title="Student beside expert", media_keys=["episode"]),
                wr.MediaBrowser(title="Figures", media_keys=["learning_curve", "return_distribution"]),
            ],
        ),
        Section(
            name="Experts",
            panels=[
                wr.LinePlot(
                    title="Return of experts in training",
                    x="expert/steps",
                    y=["expert/return_mean"],
                    title_x="environment steps",
                )
            ],
        ),
    ]


@app("dashboard")
def main(cfg: DictConfig) -> str:
    """Save the workspace to W&B, or write its JSON to disk if there is no API key. Return the URL or path."""
    check_config(cfg, "dashboard")
    check_writable(cfg.outputs)
    from ilt.tracking.store import write_json
    from ilt.tracking.wandb import has_key

    if has_key():
        import wandb

        entity = cfg.entity or str(wandb.Api().default_entity)
        where = str(build(entity, cfg.project).save().url)
        log.info("%s", where)
        return where
    path = Path(cfg.outputs) / "dashboard.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, as_json(build(cfg.entity or "", cfg.project)))
    log.info("there is no W&B API key; the workspace's JSON is in %s", path)
    return str(path)
