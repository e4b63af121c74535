"""Rounds: at some training steps the expert labels more episodes, which join the data. A round is an artifact."""

from collections.abc import Callable, Mapping
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.returns import keep_returns_to_go
from ilt.data.windows import labels_of
from ilt.experts.find import LoadedExpert
from ilt.imitation.base import Imitation, Round
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import Policy
from ilt.rollout.recorded import Context
from ilt.tracking.store import Artifact


class LabelBudget:
    """The expert labels of a training run: as many as the demonstrations that it uses have steps.

    The first labels come from the demonstrations; rounds share the rest equally. A round collects episodes, on seeds
    after those of the demonstrations, until it has enough labels, and truncates the last episode there.

    Args:
        ctx: the environment and the store.
        algorithm: the imitation algorithm.
        name: name of the algorithm, for folders.
        demos: the artifact of the demonstrations.
        demonstrations: the demonstrations that the run uses.
        first_seed: how many seeds of the demonstrations block the demonstrations use.
        expert: the expert that labels rounds; None if there are none.
        identity: everything that determines the training run.
        context_length, deterministic: how the student acts.
        n_steps: training steps.

    Attributes:
        first: the data that training starts with.
        steps_per_round: training steps from one round to the next; None if there are no rounds.
        rounds: the artifacts of all rounds so far.

    Raises:
        ValueError: there are too few labels for the rounds, or too few seeds in the demonstrations block.
    """

    def __init__(
        self,
        ctx: Context,
        algorithm: Imitation,
        *,
        name: str,
        demos: Artifact,
        demonstrations: Episodes,
        first_seed: int,
        expert: LoadedExpert | None,
        identity: Mapping[str, Any],
        context_length: int,
        deterministic: bool,
        n_steps: int,
    ) -> None:
        self._ctx, self._algorithm, self._name, self._demos = ctx, algorithm, name, demos
        self._demonstrations, self._first_seed, self._expert = demonstrations, first_seed, expert
        self._identity, self._context_length, self._deterministic = identity, context_length, deterministic
        n_rounds, budget = algorithm.rounds, len(demonstrations.actions)
        self._n_labels = split_labels(budget, initial_fraction=algorithm.initial_fraction, n_rounds=n_rounds)
        self.first = demonstrations.first_steps(self._n_labels[0])
        self.steps_per_round = n_steps // (n_rounds + 1) if n_rounds else None
        if n_rounds:
            self._seeds(n_rounds, 2 * self._n_labels[-1])  # raise now, not in the middle of training
        self.rounds: list[Artifact] = []

    def callbacks(self, data: WindowData, head: ActionHead) -> list[Callback]:
        """Return the callback that adds rounds, if there are any. It must come before other callbacks."""
        if self.steps_per_round is None:
            return []

        def episodes_of(number: int, student: SequenceModel | None) -> Episodes:
            return self._episodes_of(number, student, head)

        return [Rounds(data, n_rounds=self._algorithm.rounds, every=self.steps_per_round, episodes_of=episodes_of)]

    def results(self) -> dict[str, Any]:
        """Return the entry in `results.json`. The first item of `by_round` is the demonstrations."""
        own = {
            "artifact": self._demos.name,
            "expert_labels": self._n_labels[0],
            "return_mean": float(self._demonstrations.returns.mean()),
        }
        by_round = [own, *({"artifact": made.name, **made.metrics} for made in self.rounds)]
        return {
            "name": self._name,
            "rounds": len(self.rounds),
            "expert_labels": sum(each["expert_labels"] for each in by_round),
            "by_round": by_round,
        }

    def _episodes_of(self, number: int, student: SequenceModel | None, head: ActionHead) -> Episodes:
        """Return a round's episodes, from the store or collected now by the student.

        Raise ValueError if they are not in the store and there is no student.
        """
        store, name = self._ctx.store, f"{self._name}-{number}"
        config = {"training": self._identity, "round": number, "first_seed": int(self._seeds(number, 1)[0])}
        if student is None:
            found = store.find("rounds", name, config)
            if found is None:
                raise ValueError(
                    f"round {number} of this run, on which its checkpoint was trained, is not in "
                    f"{store.root / 'rounds'} any more; resume=false starts over"
                )
        else:
            expert = self._expert
            assert expert is not None, "an algorithm with rounds is refused without an expert"

            def make(folder: Path) -> dict[str, Any]:
                assert student is not None
                policy, about_policy = self._algorithm.round_policy(
                    Round(
                        number=number,
                        env=self._ctx.env,
                        model=student,
                        head=head,
                        expert=expert.policy,
                        validation=Episodes.load(self._demos.file("validation.npz")),
                        context_length=self._context_length,
                        deterministic=self._deterministic,
                    )
                )
                episodes = self._collect(number, policy)
                if student.return_conditioned:
                    episodes = keep_returns_to_go(episodes)
                kept = episodes.first_steps(self._n_labels[number])
                kept.save(folder / "episodes.npz")
                same = kept.actions == labels_of(kept)
                as_labeled = float((same if same.ndim == 1 else same.all(axis=1)).mean())
                counted = {"expert_labels": len(kept.actions), "kept": len(kept), "n_episodes": len(episodes)}
                metrics = episode_metrics(episodes, self._ctx.env)
                return {**counted, **metrics, "executed_as_labeled": as_labeled, **about_policy}

            found = store.find_or_make("rounds", name, config, make, parents=[*expert.parents, self._demos])
        self.rounds.append(found)
        return Episodes.load(found.file("episodes.npz"))

    def _collect(self, number: int, policy: Policy) -> Episodes:
        """Collect whole episodes in the order of their seeds, with at least as many steps as the round has labels."""
        wanted, mean_length = self._n_labels[number], float(self._demonstrations.lengths.mean())
        n_episodes = ceil(wanted / mean_length)  # of each part
        parts: list[Episodes] = []
        for part in count():
            seeds = self._seeds(number, n_episodes, part * n_episodes)
            parts.append(self._ctx.rollout(policy, seeds, title=f"round {number}, part {part + 1}")[0])
            if sum(len(episodes.actions) for episodes in parts) >= wanted:
                break
        return Episodes.concatenate(parts)

    def _seeds(self, number: int, n_episodes: int, offset: int = 0) -> np.ndarray:
        """Return seeds of a round. It has two per label, more than it can use, since every episode has a step."""
        first = self._first_seed + 2 * sum(self._n_labels[1:number])
        return self._ctx.env.seeds("demonstrations", n_episodes, offset=first + offset)


class Rounds(Callback):
    """Adds the episodes of a round to the training data, during validation after every `every` training steps.

    It must come before a weight-averaging callback, which swaps in the averaged weights during validation, so that they
    act in the round, as in `RolloutEvaluation`. A resumed run loads the rounds of its checkpoint.

    Args:
        data: the training data.
        n_rounds: number of rounds, not counting the data that training starts with.
        every: training steps from one round to the next; validation must run at these steps.
        episodes_of: takes the number of a round, from 1, and the current student, or None to load a checkpoint's round.
    """

    def __init__(
        self,
        data: WindowData,
        *,
        n_rounds: int,
        every: int,
        episodes_of: Callable[[int, SequenceModel | None], Episodes],
    ) -> None:
        self._data, self._n_rounds, self._every, self._episodes_of = data, n_rounds, every, episodes_of
        self._added = 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        number, since = divmod(trainer.global_step, self._every)
        if since == 0 and self._added < number <= self._n_rounds:
            self._add(number, pl_module.model)  # type: ignore[arg-type]  # Lightning types every attribute as Tensor or Module

    def _add(self, number: int, student: SequenceModel | None) -> None:
        self._data.extend(self._episodes_of(number, student))
        self._added = number

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self._added}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for number in range(1, state_dict["rounds"] + 1):
            self._add(number, None)


def split_labels(budget: int, *, initial_fraction: float, n_rounds: int) -> list[int]:
    """Split the budget into the labels of the demonstrations and of each round. Raise ValueError if any gets none."""
    first = round(initial_fraction * budget)
    ends = [first + (budget - first) * number // n_rounds for number in range(1, n_rounds + 1)]
    counts = np.diff([0, first, *ends]).tolist()
    if min(counts) < 1:
        raise ValueError(
            f"imitation.rounds and imitation.initial_fraction leave a round without labels: dataset.episodes has "
            f"{budget} steps, of which the demonstrations and the rounds would get {counts}"
        )
    return counts
