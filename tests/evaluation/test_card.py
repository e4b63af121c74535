"""The card of a run says what its results mean, and what they do not."""

import json
import shutil
from pathlib import Path

import pytest

from ilt.evaluation.card import card_of
from ilt.tracking.run_folder import CARD
from ilt.tracking.store import open_artifact, write_with_digest
from tests.test_pipeline import SHORT, run
from tests.training.toy_training import train_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run with training seed 0."""
    folder = tmp_path_factory.mktemp("runs") / "toy-s0-0000000000"
    run(train_config(folder.parent, *SHORT, "callbacks.best=null", "trainer.log_every_n_steps=2"), folder)
    return folder


def test_a_run_has_a_card_with_results_seeds_choices_and_what_was_not_tested(finished: Path) -> None:
    card, results = (finished / CARD).read_text(), json.loads((finished / "results.json").read_text())
    assert card.startswith(f"# {finished.name}\n")
    low, high = results["return_mean_interval"]
    assert f"| student (last) | {results['return_mean']:.1f} | {low:.1f} … {high:.1f} |" in card
    assert "| test | 30,000,000 and above | results: 4 episodes |" in card
    assert "learning curve: " in card
    assert "| trainer.max_steps | 4 |" in card
    assert "log_every_n_steps" not in card  # does not affect the weights
    assert "- Other training seeds" in card
    assert "- Sampled actions." in card
    assert results["git_commit"] in card


def test_runs_that_differ_only_in_their_seed_are_on_the_card(finished: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(finished.parent, tmp_path / "runs")) / finished.name
    identity = json.loads((own / "identity.json").read_text())
    results = json.loads((own / "results.json").read_text())
    demos = open_artifact(next((tmp_path / "runs" / "demos").glob("*/manifest.json")).parent)

    def beside(name: str, change: tuple[str, str], **changes: object) -> Path:
        other = Path(shutil.copytree(own, own.with_name(name)))
        (other / "config.yaml").write_text((own / "config.yaml").read_text().replace(*change))
        write_with_digest(other / "results.json", {**results, **changes})
        return other

    beside("toy-s1-1111111111", ("\nseed: 0\n", "\nseed: 1\n"), seed=1, return_mean=results["return_mean"] + 2)
    beside("toy-s2-2222222222", ("n_layer: 1", "n_layer: 2"), seed=2)
    (beside("toy-s3-3333333333", ("", ""), seed=3) / "results.json").write_text("damaged")
    card = card_of(own, identity, demos)
    assert f"{results['return_mean']:.1f} (seed 0), {results['return_mean'] + 2:.1f} (seed 1). Their mean is" in card
    assert "seed 2" not in card
    assert "Other training seeds" not in card
