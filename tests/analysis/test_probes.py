"""Probes find planted quantities in the right place and from the right step."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from ilt.analysis.probes import LEAST_EPISODES, OBSERVATION, Score, hidden_columns, in_words, score_probes, score_rows
from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.decoder import Decoder
from ilt.models.recurrent import Recurrent
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from tests.toys import countdown

NAMES = ("seen", "past", "absent", "constant")
COLUMNS = {"seen": 0, "past": 1, "absent": 2}
Scores = dict[tuple[str, str, int], Score]
TWO = ActionSpace(n_choices=(2,), start=(0,))


def planted(n_episodes: int, seed: int, *, n_steps: int = 6) -> Episodes:
    """Return random episodes that hide sums of the current and of the previous two observations, noise, a constant."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n_episodes, n_steps + 1, 3)).astype(np.float32)
    total = seen[:, :-1].sum(axis=2)
    before = np.stack([np.roll(total, lag, axis=1) * (np.arange(n_steps) >= lag) for lag in (1, 2)]).sum(axis=0)
    absent = np.broadcast_to(rng.normal(size=(n_episodes, 1)), total.shape)
    hidden = np.stack([total, before, absent, np.ones_like(total)], axis=2).astype(np.float32)
    return Episodes(
        observations=seen.reshape(-1, 3),
        actions=rng.integers(0, 2, n_episodes * n_steps),
        rewards=np.zeros(n_episodes * n_steps),
        lengths=np.full(n_episodes, n_steps),
        terminated=np.ones(n_episodes, dtype=bool),
        truncated=np.zeros(n_episodes, dtype=bool),
        seeds=np.arange(n_episodes),
        extras={"step/privileged": hidden.reshape(-1, 4)},
    )


def untrained(context_length: int) -> Decoder:
    """Return a model that attends evenly: its first block contains the mean of the window."""
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_head": 1, "d_model": 24, "positions": "none", "tokens": "states"}
    return Decoder(observation_dim=3, action_space=TWO, n_outputs=2, context_length=context_length, **sizes).eval()


def scores_of(model: SequenceModel) -> Scores:
    episodes, length = (planted(400, 0), planted(200, 1)), model.context_length
    found = score_probes(model, *episodes, COLUMNS, [0, 1, 2, 5, 6], context_length=length)
    return {(score.quantity, score.source, score.step): score for score in found}


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Return the scores of a student that looks back two steps."""
    return scores_of(untrained(3))


def test_the_present_is_read_everywhere_and_the_past_only_after_attention(scores: Scores) -> None:
    for source in (OBSERVATION, "embedding", "layer 1"):
        assert all(scores["seen", source, step].r2 > 0.99 for step in (0, 1, 2, 5))
    for step in (1, 2, 5):
        assert scores["past", "layer 1", step].r2 > 0.7  # not higher, since layer norm is not linear
        assert all(abs(scores["past", source, step].r2) < 0.1 for source in (OBSERVATION, "embedding"))


def test_a_student_without_memory_does_not_know_the_past() -> None:
    memoryless = scores_of(untrained(1))
    assert all(abs(memoryless["past", "layer 1", step].r2) < 0.1 for step in (1, 2, 5))
    assert memoryless["seen", "layer 1", 5].r2 > 0.99


def test_the_state_of_a_recurrent_student_covers_the_episode_so_far() -> None:
    torch.manual_seed(0)
    sizes = {"cell": "gru", "d_model": 24, "n_layer": 1, "dropout": 0.0}
    found = scores_of(Recurrent(observation_dim=3, action_space=TWO, n_outputs=2, context_length=1, **sizes).eval())
    assert all(found["past", "state", step].r2 > 0.7 for step in (1, 2))
    assert all(abs(found["past", source, 5].r2) < 0.1 for source in (OBSERVATION, "embedding"))


def test_absent_quantities_and_shuffled_labels_score_near_zero(scores: Scores) -> None:
    assert all(abs(score.r2) < 0.1 for (quantity, *_), score in scores.items() if quantity == "absent")
    assert all(abs(score.shuffled_r2) < 0.1 for score in scores.values())


def test_constants_and_steps_that_few_episodes_reach_have_no_score(scores: Scores) -> None:
    assert ("past", "layer 1", 0) not in scores  # there is no past at the start
    assert {step for *_, step in scores} == {0, 1, 2, 5}
    assert {(score.n_fitted, score.n_scored) for score in scores.values()} == {(400, 200)}
    few = planted(LEAST_EPISODES - 1, 0)
    assert score_probes(untrained(3), planted(60, 1), few, COLUMNS, [0, 1], context_length=3) == []


def test_hidden_quantities_that_vary_are_probed(two_episodes: Episodes) -> None:
    assert hidden_columns(NAMES, planted(3, 0)) == COLUMNS
    hide = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [0]}
    spec = replace(countdown(), wrappers={"mask": hide})
    episodes = rollout(spec, RandomPolicy(spec.action_space), [1, 4])
    assert hidden_columns(spec.observations.privileged_names, episodes) == {"observation[0]": 0}
    with pytest.raises(ValueError, match="env hides nothing"):
        hidden_columns((), two_episodes)


def test_the_table_has_a_row_per_quantity_and_source_and_the_text_names_the_best(scores: Scores) -> None:
    columns, rows = score_rows(list(scores.values()))
    assert columns == ["quantity", "read from", "0", "1", "2", "5"]
    assert [row[0] for row in rows[:4]] == ["seen"] * 4
    assert [row[1] for row in rows[:4]] == [OBSERVATION, "embedding", "layer 1", "layer 1, shuffled"]
    assert rows[2][2:] == ["1.00"] * 4
    assert next(row for row in rows if row[:2] == ["past", "layer 1"])[2] == "–"
    assert rows[-2:] == [["episodes", "fitted", *["400"] * 4], ["episodes", "scored", *["200"] * 4]]
    words = r"seen: at most 1.00 from the present observation at step \d and 1.00 from layer 1 at step \d. absent:"
    assert re.search(words, in_words(list(scores.values())))
