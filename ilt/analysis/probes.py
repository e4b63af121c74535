"""Linear probes of hidden quantities in a student's activations (Alain and Bengio 2016).

A probe is fitted and scored on different episodes. The steps of an episode share its physics, so fitting on one of them
would leak the targets of the others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ilt.analysis.ridge import explained_variance, fit_ridge
from ilt.data.episodes import Episodes
from ilt.data.windows import windows_at
from ilt.models.base import SequenceModel
from ilt.models.inspection import hidden_states

LEAST_EPISODES = 50
"""Steps that fewer episodes than this reach are left out."""

N_SHUFFLES = 10
"""Shuffles that the control is averaged over; in a single one, some targets match their episodes by chance."""

OBSERVATION = "present observation"

_BATCH = 256  # windows in one forward pass


class Score(NamedTuple):
    """R² of the probe of one quantity from one source of features at one step.

    Attributes:
        quantity: name of the hidden quantity.
        source: `OBSERVATION`, or one of the model's `probe_points`, such as `layer 1`.
        step: number of steps taken before the action is chosen, from 0.
        r2, error: R² on held-out episodes, and its standard error over them.
        shuffled_r2: mean R² of control probes, which are fitted to targets shuffled over episodes.
        n_fitted, n_scored: how many episodes of each set reach this step.
    """

    quantity: str
    source: str
    step: int
    r2: float
    error: float
    shuffled_r2: float
    n_fitted: int
    n_scored: int


def scores_of_rows(rows: Sequence[Mapping[str, str]]) -> dict[str, list[Score]]:
    """Return each run's scores from the rows of `probe.csv`. Raise ValueError if a number is text or not finite."""
    scores: dict[str, list[Score]] = {}
    for row in rows:
        r2, error, shuffled_r2 = (float(row[name]) for name in ("r2", "error", "shuffled_r2"))
        if not np.isfinite([r2, error, shuffled_r2]).all():
            raise ValueError("it contains a number that is not finite")
        counts = (int(row[name]) for name in ("n_fitted", "n_scored"))
        score = Score(row["quantity"], row["source"], int(row["step"]), r2, error, shuffled_r2, *counts)
        scores.setdefault(row["run"], []).append(score)
    return scores


class Moment(NamedTuple):
    """The same step of every episode that reaches it.

    Attributes:
        features: (E, D), by source.
        targets: (E, Q) float64: the hidden quantities.
    """

    features: Mapping[str, np.ndarray]
    targets: np.ndarray


def hidden_columns(names: Sequence[str], episodes: Episodes) -> dict[str, int]:
    """Return the indices of the columns of `step/privileged` that vary, by name. Raise ValueError if there are none."""
    hidden = episodes.extras.get("step/privileged")
    columns = {} if hidden is None else {name: i for i, name in enumerate(names) if np.ptp(hidden[:, i]) > 0}
    if not columns:
        raise ValueError("there is nothing to probe: env hides nothing from the student that varies")
    return columns


def read_moment(
    model: SequenceModel, episodes: Episodes, step: int, columns: Sequence[int], *, context_length: int
) -> Moment:
    """Return the student's observations and activations at one step of the episodes that it rolled out.

    Args:
        columns: the columns of `step/privileged` to use as targets.
        context_length: steps of context; a recurrent model gets the whole episode so far.
    """
    which, observations, actions = windows_at(
        episodes,
        step,
        action_space=model.action_space,
        context_length=step + 1 if model.recurrent else context_length,
        target_return=None if model.target_return is None else float(model.target_return),
    )
    parts = zip(observations.split(_BATCH), actions.split(_BATCH), strict=True)
    inside = [hidden_states(model, *part) for part in parts]
    features = {name: torch.cat([part[name] for part in inside]).numpy() for name in inside[0]}
    hidden = episodes.extras["step/privileged"][episodes.step_offsets[which] + step]
    targets = hidden[:, list(columns)].astype(np.float64)
    return Moment({OBSERVATION: observations[:, -1].numpy(), **features}, targets)


def score_probes(
    model: SequenceModel,
    fitted: Episodes,
    scored: Episodes,
    columns: Mapping[str, int],
    steps: Sequence[int],
    *,
    context_length: int,
) -> list[Score]:
    """Fit a probe for each quantity, source and step on `fitted` episodes, and score it on `scored` ones.

    Args:
        columns: from `hidden_columns`.
        steps: the steps to probe. Those that fewer than `LEAST_EPISODES` of either set reach are left out.
        context_length: see `read_moment`.
    """
    scores: list[Score] = []
    for step in steps:
        if min(int((episodes.lengths > step).sum()) for episodes in (fitted, scored)) < LEAST_EPISODES:
            continue
        fit_moment, score_moment = (
            read_moment(model, episodes, step, list(columns.values()), context_length=context_length)
            for episodes in (fitted, scored)
        )
        n_fitted, n_scored = len(fit_moment.targets), len(score_moment.targets)
        rng = np.random.default_rng(step)
        shuffled = np.concatenate([rng.permutation(fit_moment.targets) for _ in range(N_SHUFFLES)], axis=1)
        for source, features in fit_moment.features.items():
            r2, error = explained_variance(
                fit_ridge(features, fit_moment.targets)(score_moment.features[source]), score_moment.targets
            )
            control = fit_ridge(features, shuffled)(score_moment.features[source])
            by_chance, _ = explained_variance(control, np.tile(score_moment.targets, N_SHUFFLES))
            by_chance = by_chance.reshape(N_SHUFFLES, -1).mean(axis=0)
            scores += [
                Score(name, source, step, float(r2[q]), float(error[q]), float(by_chance[q]), n_fitted, n_scored)
                for q, name in enumerate(columns)
                if np.isfinite(r2[q])
            ]
    return scores


def score_rows(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of R²: one row per quantity and source, and the last source's control."""
    steps = sorted({score.step for score in scores})
    found = {(score.quantity, score.source, score.step): score for score in scores}
    last = scores[-1].source
    rows = []
    for quantity in dict.fromkeys(score.quantity for score in scores):
        for source in dict.fromkeys(score.source for score in scores):
            cells = [found.get((quantity, source, step)) for step in steps]
            rows.append([quantity, source, *("–" if cell is None else f"{cell.r2:z.2f}" for cell in cells)])
        cells = [found.get((quantity, last, step)) for step in steps]
        shuffled = ("–" if cell is None else f"{cell.shuffled_r2:z.2f}" for cell in cells)
        rows.append([quantity, f"{last}, shuffled", *shuffled])
    for kind, counts in (
        ("fitted", {score.step: score.n_fitted for score in scores}),
        ("scored", {score.step: score.n_scored for score in scores}),
    ):
        rows.append(["episodes", kind, *(str(counts[step]) for step in steps)])
    return ["quantity", "read from", *map(str, steps)], rows


def in_words(scores: Sequence[Score]) -> str:
    """Describe the highest R² of each quantity, from the present observation and from the last layer."""
    sentences = []
    for quantity in dict.fromkeys(score.quantity for score in scores):
        best = (
            max((score for score in scores if (score.quantity, score.source) == (quantity, source)), key=_r2)
            for source in (OBSERVATION, scores[-1].source)
        )
        said = " and ".join(f"{score.r2:z.2f} from the {score.source} at step {score.step}" for score in best)
        sentences.append(f"{quantity}: at most {said.replace('the layer', 'layer')}.")
    return "R² on held-out episodes. " + " ".join(sentences)


def _r2(score: Score) -> float:
    return score.r2
