"""`ilt figures`: redraw figures from files alone, including other people's files."""

from pathlib import Path

import pytest

from ilt.cli.figures import find_figures
from ilt.evaluation.figure_style import FORMATS
from ilt.schema import ConfigError
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.store import DamagedArtifactError, sha256, write_json, write_with_digest
from tests.analysis.finished_runs import finish_run
from tests.cli.commands import run_command

PROBE = "run,quantity,source,step,r2,error,shuffled_r2,n_fitted,n_scored\nme,wind,layer 1,{step},0.5,0.1,0.0,9,9\n"
ATTENTION = "moment,layer,head,steps_back,weight\nlast action,1,1,1.0,0.25\nlast action,1,1,0.0,0.75\n"
POLICY = {"return_mean": 3.0, "return_mean_interval": [2.0, 4.0], "n_episodes": 5}


def test_the_figures_of_a_run_are_redrawn_in_every_format(tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert run_command("figures", f"run={run}", "width=3.3") == 6
    names = {f"{name}-3.3in.{suffix}" for name in ("learning_curve", "return_distribution") for suffix in FORMATS}
    assert {path.name for path in (run / "figures").iterdir()} == names
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_probe_and_attention_figures_are_redrawn(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "probe.csv").write_text(PROBE.format(step=0))
    (tmp_path / "probe" / "attention.csv").write_text(ATTENTION)
    draws = find_figures(tmp_path)
    assert list(draws) == ["probe", "attention"]
    for draw in draws.values():
        draw(3.3).draw_without_rendering()


def comparison(folder: Path, **content: object) -> Path:
    """Write a comparison with only what a figure needs; return its folder."""
    folder.mkdir()
    write_json(folder / "comparison.json", {"reference": "a", "metrics": {"all episodes": {"a": POLICY}}, **content})
    files = {"comparison.json": sha256(folder / "comparison.json")}
    write_with_digest(folder / "manifest.json", {"files": files})
    return folder


def test_comparison_and_sweep_figures_are_redrawn(tmp_path: Path) -> None:
    assert list(find_figures(comparison(tmp_path / "comparison"))) == ["comparison"]
    job = finish_run(tmp_path / "sweep" / "job", results={"return_mean_interval": [1.0, 2.0]})
    (job / ".hydra").mkdir()
    (job / ".hydra" / "overrides.yaml").write_text("- seed=0\n")
    assert list(find_figures(tmp_path / "sweep")) == ["sweep"]


@pytest.mark.parametrize("content", [{"metrics": 3}, {"metrics": {"all episodes": {"a": {"return_mean": "x"}}}}])
def test_content_that_cannot_be_drawn_is_refused_in_one_line(content: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="cannot be used"):
        run_command("figures", f"run={comparison(tmp_path / 'it', **content)}", "width=3.3")
    assert not list(tmp_path.rglob("*.png"))


def test_other_folders_and_changed_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run must be the folder of a finished run, a comparison or a sweep"):
        find_figures(tmp_path)
    folder = comparison(tmp_path / "it")
    (folder / "comparison.json").write_text("{}")
    with pytest.raises(DamagedArtifactError, match="is not the file that its manifest describes"):
        find_figures(folder)
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "probe.csv").write_text(PROBE.format(step="x"))
    with pytest.raises(UnreadableFileError, match=r"probe\.csv cannot be used"):
        find_figures(tmp_path)
