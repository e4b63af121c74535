"""Redraw the figures of a finished run, comparison or sweep: `ilt figures run=outputs/runs/NAME`."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.schema import ConfigError, config_hash
from ilt.settings import check_config
from ilt.tracking.reading import read_csv, read_json, reading
from ilt.tracking.run_folder import RESULTS, read_config

if TYPE_CHECKING:
    from ilt.evaluation.figure_style import Draw

log = logging.getLogger(__name__)


def find_figures(folder: Path) -> dict[str, "Draw"]:
    """Return the functions that draw a folder's figures from its files alone, by the figure's name.

    Raise ConfigError if the folder has nothing to draw.
    """
    draws: dict[str, Draw] = {}
    if os.path.lexists(folder / RESULTS):
        from ilt.analysis.figures import figures_of_run
        from ilt.tracking.records import read_run

        draws |= figures_of_run(read_run(folder.name, folder, read_config(folder)))
    if os.path.lexists(path := folder / "probe" / "probe.csv"):
        from ilt.analysis.probe_figures import probe_figure
        from ilt.analysis.probes import scores_of_rows

        with reading(path):
            one, *others = scores_of_rows(read_csv(path, within=folder)).values()
        draws["probe"] = partial(probe_figure, one, other=others[0] if others else None)
    if os.path.lexists(path := folder / "probe" / "attention.csv"):
        from ilt.analysis.attention_maps import maps_of_rows
        from ilt.analysis.probe_figures import attention_figure

        with reading(path):
            maps, tokens_per_step = maps_of_rows(read_csv(path, within=folder))
        draws["attention"] = partial(attention_figure, maps, tokens_per_step=tokens_per_step)
    if os.path.lexists(folder / "comparison.json"):
        from ilt.analysis.comparison_figure import comparison_figure
        from ilt.tracking.store import open_artifact

        open_artifact(folder)
        draws["comparison"] = partial(comparison_figure, read_json(folder / "comparison.json"))
    if folder.is_dir() and not draws:
        from ilt.studies.sweeps import find_jobs

        jobs = find_jobs(folder)
        if any(job.results for job in jobs):
            from ilt.studies.sweep_figure import sweep_figure

            draws["sweep"] = partial(sweep_figure, jobs)
    if not draws:
        raise ConfigError(f"run must be the folder of a finished run, a comparison or a sweep, got {folder}")
    return draws


@app("figures")
def main(cfg: DictConfig) -> int:
    """Draw the figures into the run's folder `figures`, and return the number of files."""
    check_config(cfg, "figures")
    folder = Path(cfg.run)
    draws = find_figures(folder)
    from ilt.evaluation.figure_style import ONE_COLUMN, TWO_COLUMNS, write_all
    from ilt.tracking.store import place_for

    name = folder.resolve().name
    place = place_for(folder / "figures", Path(cfg.outputs, "figures", f"{name}-{config_hash(str(folder.resolve()))}"))
    n_files = 0
    with reading(folder):  # its values may be impossible to draw
        for path in write_all(draws, place, [cfg.width] if cfg.width else [ONE_COLUMN, TWO_COLUMNS]):
            log.info("%s", path.name)
            n_files += 1
    log.info("everything is in %s", place)
    return n_files
