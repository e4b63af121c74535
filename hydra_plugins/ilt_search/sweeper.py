"""A Hydra sweeper that runs `ilt.studies.search`. Hydra imports it at every start, so Optuna is imported on sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class SearchSweeper(Sweeper):
    """Run the search that the config's `search` describes, with the launcher that `hydra/launcher` selects."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._launched = 0

    def sweep(self, arguments: list[str]) -> dict[str, Any]:
        """Search, retrain the winner, write the report, and return the content of `search.json`.

        Raise ConfigError, before anything is written, if the search or one of its values is not allowed.
        """
        from ilt.cli.app import as_typed, check_overrides
        from ilt.machine import check_environment
        from ilt.schema import ConfigError
        from ilt.settings import check_config, check_search

        HydraConfig.instance().set_config(self.config)  # interpolated names contain the chosen options
        if self.config.get("search") is None:
            raise ConfigError("hydra/sweeper=optuna needs search; sweep=optuna sets both")
        check_overrides(self.config, as_typed(self.config.hydra.overrides.task))
        check_search(self.config.search)
        from ilt.cli.search_space import parse_space  # importing Optuna takes a second
        from ilt.studies.search import Search

        folder = Path(self.config.hydra.sweep.dir)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        space, fixed = parse_space(self.config.search.space, arguments, parser)
        search = Search(self.config, space, fixed, folder, self._launch, self._evaluate)
        for overrides in search.examples():  # reject invalid values before anything is written
            example = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            check_config(example)
            check_environment(example)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return search.run()

    def _launch(self, batch: Sequence[Sequence[str]]) -> list[float | Exception | None]:
        first, self._launched = self._launched, self._launched + len(batch)
        return [_outcome(job) for job in self.launcher.launch(batch, initial_job_idx=first)]

    def _evaluate(self, runs: Mapping[int, Sequence[Path]]) -> list[dict[str, Any]]:
        from ilt.pipeline import prepare
        from ilt.studies.finalists import evaluate_finalists

        return evaluate_finalists(prepare(self.config), self.config, runs)


def _outcome(job: JobReturn) -> float | Exception | None:
    try:
        return job.return_value
    except Exception as error:
        return error
