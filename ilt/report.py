"""One table over several runs: `python -m ilt.report runs=outputs/multirun/seeds`."""

import logging
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from ilt.config import ConfigError, check_config

log = logging.getLogger(__name__)

COLUMNS = (
    "run",
    "student",
    "95 % interval",
    "expert",
    "student − expert",
    "interval of that",
    "crashes",
    "expert's crashes",
)


def find_runs(folder: Path) -> tuple[list[Path], list[Path]]:
    """The finished and the unfinished runs below a folder, by name."""
    found = sorted(path.parent for path in folder.rglob("config.yaml") if path.parent.name != ".hydra")
    finished = [path for path in found if (path / "results.json").exists()]
    return finished, [path for path in found if path not in finished]


def report_rows(runs: list[Path]) -> list[list[str]]:
    """One row per run; over runs that differ in nothing but their seed also the mean, to which each counts once.

    The last row's intervals are over runs, since that is what another training seed would vary.
    """
    import numpy as np

    from ilt.analysis.statistics import mean_interval_of_runs
    from ilt.runs import read_config
    from ilt.store import read_json

    results = [read_json(path / "results.json") for path in runs]

    def row(name: str, values: dict[str, Any]) -> list[str]:
        return [
            name,
            f"{values['return']:.1f}",
            "{:.1f} … {:.1f}".format(*values["interval"]),
            f"{values['expert']:.1f}",
            f"{values['difference']:+.1f}",
            "{:+.1f} … {:+.1f}".format(*values["difference_interval"]),
            f"{100 * values['crashes']:.1f} %",
            f"{100 * values['expert_crashes']:.1f} %",
        ]

    values = [
        {
            "return": result["return_mean"],
            "interval": result["return_mean_interval"],
            "expert": result["expert_return_mean"],
            "difference": result["difference_to_expert"]["mean"],
            "difference_interval": result["difference_to_expert"]["interval"],
            "crashes": result["crash_rate"],
            "expert_crashes": result["policies"]["expert"]["crash_rate"],
        }
        for result in results
    ]
    rows = [row(path.name, run) for path, run in zip(runs, values, strict=True)]
    configs = [{**read_config(path), "seed": None} for path in runs]
    if len(values) > 1 and all(config == configs[0] for config in configs):
        column = {name: np.array([run[name] for run in values]) for name in values[0] if "interval" not in name}
        overall: dict[str, Any] = {name: column[name].mean() for name in column}
        overall["interval"] = mean_interval_of_runs(column["return"])
        overall["difference_interval"] = mean_interval_of_runs(column["difference"])
        rows.append(row(f"all {len(values)} seeds", overall))
    return rows


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> int:
    """Print the table over a folder of runs, write it to `report.md` there, and return how many runs it holds."""
    check_config(cfg)
    folder = Path(cfg.runs)
    finished, unfinished = find_runs(folder)
    if not finished:
        raise ConfigError(f"runs must be a folder that holds finished runs, got {folder}")

    from ilt.analysis.tables import markdown_table, print_table

    rows = report_rows(finished)
    print_table(str(folder), COLUMNS, rows)
    (folder / "report.md").write_text(markdown_table(COLUMNS, rows))
    for path in unfinished:
        log.warning("not finished, and not in the table: %s", path)
    log.info("%s", folder / "report.md")
    return len(finished)


if __name__ == "__main__":
    main()
