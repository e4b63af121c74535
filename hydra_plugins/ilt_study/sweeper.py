"""A Hydra sweeper that runs the jobs of a study. Hydra imports it at every start, so it imports little."""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Run the study that the config's `study` describes, with the launcher that `hydra/launcher` selects."""

    hydra_context: HydraContext
    config: DictConfig

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan the study, run the jobs that are not finished, and write its tables."""
        from ilt.cli.study import run_study

        return run_study(self.config, arguments, self.hydra_context.config_loader, self._launch)

    def _launch(self, config: DictConfig, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        """Run jobs of `ilt train`, whose config is composed from `config.hydra.job.config_name` and their overrides."""
        from ilt.cli.train import main

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=main, config=config
        )
        return launcher.launch(jobs, initial_job_idx=0)
