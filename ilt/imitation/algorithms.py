"""Ways to imitate: how many labels an expert gives, when, and under whose control. A round is an artifact."""

from itertools import count
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from pytorch_lightning import Callback
from torch import nn

from ilt.cli.collect import fly
from ilt.cli.expert import demonstrator, find
from ilt.config import run_config
from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset, labels_of
from ilt.envs.spec import EnvSpec
from ilt.imitation.labeling import MixturePolicy, NoiseInjectionPolicy
from ilt.imitation.rounds import Rounds, confusion
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import Policy
from ilt.rollout.sequence_policy import SequencePolicy
from ilt.tracking.store import Artifact, Store

DECISIVE = ("seed", "n_envs", "dataset", "model", "optimizer", "trainer", "imitation")
"""Keys of a run that decide its weights at every step, as its expert and its demonstrations do."""

WATCHING = ("rollout", "curve", "preemption", "best", "last")
"""Callbacks that change no weights."""


class Imitation:
    """The labels that a training is given: as many as the demonstrations that it uses have steps.

    The first ones are those of the demonstrations themselves. The others are what the expert says in rounds, which have
    equal parts of the rest; a round flies until there are enough, from seeds behind those of the demonstrations, and
    its last episode is cut where they are used up.

    Args:
        cfg: the run's.
        demos: the demonstrations.
        demonstrations: those that the run uses. ValueError if they have too few steps for the rounds, or if the
            demonstrations block has too few seeds.

    Attributes:
        first: what the training begins with.
        steps_per_round: training steps from one round to the next; None where there are no rounds.
        rounds: the artifacts of all rounds so far.
    """

    def __init__(self, cfg: DictConfig, spec: EnvSpec, demos: Artifact, demonstrations: Episodes) -> None:
        self._cfg, self._spec, self._demos, self._demonstrations = cfg, spec, demos, demonstrations
        self._store = Store(Path(cfg.outputs))
        n_rounds, budget = cfg.imitation.rounds, len(demonstrations.actions)
        self._n_labels = shares(budget, initial_fraction=cfg.imitation.initial_fraction, n_rounds=n_rounds)
        self.first = demonstrations.first_steps(self._n_labels[0])
        self.steps_per_round = cfg.trainer.max_steps // (n_rounds + 1) if n_rounds else None
        if n_rounds:
            self._seeds(n_rounds, 2 * self._n_labels[-1])  # or refused now, and not half way
        self.rounds: list[Artifact] = []

    def callbacks(self, data: WindowData) -> list[Callback]:
        """What takes part in the training; it must stand before other callbacks."""
        if self.steps_per_round is None:
            return []
        n_rounds = len(self._n_labels) - 1
        return [Rounds(data, n_rounds=n_rounds, every=self.steps_per_round, episodes_of=self._episodes_of)]

    def results(self) -> dict[str, Any]:
        """What `results.json` says of it. The first of `by_round` are the demonstrations."""
        own = {
            "made": self._demos.name,
            "expert_labels": self._n_labels[0],
            "return_mean": float(self._demonstrations.returns.mean()),
        }
        by_round = [own, *({"made": made.name, **made.metrics} for made in self.rounds)]
        return {
            "name": self._cfg.imitation.name,
            "rounds": len(self.rounds),
            "expert_labels": sum(each["expert_labels"] for each in by_round),
            "by_round": by_round,
        }

    def _episodes_of(self, number: int, student: nn.Module | None) -> Episodes:
        """The episodes of a round, from the store, or flown now. ValueError if they are not there and nobody flies."""
        cfg, name = self._cfg, f"{self._cfg.imitation.name}-{number}"
        expert = find(cfg, self._spec, self._store)
        canonical_config = self._recipe(number, expert)
        if student is None:
            found = self._store.find("rounds", name, canonical_config)
            if found is None:
                raise ValueError(
                    f"round {number} of this run, on which its checkpoint was trained, is not in "
                    f"{self._store.root / 'rounds'} any more; resume=false begins afresh"
                )
        else:

            def make(folder: Path) -> dict[str, Any]:
                assert student is not None
                policy, noted = self._policy(number, student, expert)
                flown = self._fly(number, policy)
                kept = flown.first_steps(self._n_labels[number])
                kept.save(folder / "episodes.npz")
                as_labelled = float((kept.actions == labels_of(kept)).mean())
                counted = {"expert_labels": len(kept.actions), "kept": len(kept), "flown": len(flown)}
                return {**counted, **episode_metrics(flown, self._spec), "executed_as_labelled": as_labelled, **noted}

            found = self._store.find_or_make("rounds", name, canonical_config, make, parents=[expert, self._demos])
        self.rounds.append(found)
        return Episodes.load(found.file("episodes.npz"))

    def _recipe(self, number: int, expert: Artifact) -> dict[str, Any]:
        """All that decides a round."""
        run = run_config(self._cfg)
        return {
            "env": self._spec.identity(),
            "expert": expert.name,
            "demonstrations": self._demos.name,
            "round": number,
            "first_seed": int(self._seeds(number, 1)[0]),
            "run": {key: run[key] for key in DECISIVE},
            "callbacks": {name: value for name, value in run["callbacks"].items() if name not in WATCHING},
            "student": {key: run["evaluation"][key] for key in ("context_length", "deterministic")},
        }

    def _policy(self, number: int, student: nn.Module, expert: Artifact) -> tuple[Policy, dict[str, Any]]:
        """Who flies a round, and what is to be said of it."""
        cfg, (visible, n_actions) = self._cfg, self._spec.sizes()
        asked = demonstrator(cfg, self._spec, expert)
        context_length, deterministic = cfg.evaluation.context_length, cfg.evaluation.deterministic
        if cfg.imitation.name == "dart":
            validation = Episodes.load(self._demos.file("validation.npz"))
            windows = WindowDataset(
                validation, context_length=context_length or cfg.dataset.context_length, as_deployed=True
            )
            noise = confusion(student, windows, n_actions, deterministic=deterministic)
            return NoiseInjectionPolicy(asked, noise), {"confusion": noise.round(6).tolist()}
        share = cfg.imitation.beta**number
        flyer = SequencePolicy(student, context_length=context_length, deterministic=deterministic)
        return MixturePolicy(flyer, asked, visible=visible, beta=share), {"beta": share}

    def _fly(self, number: int, policy: Policy) -> Episodes:
        """Whole episodes with at least as many steps as the round has labels, in the order of their seeds."""
        wanted, mean_length = self._n_labels[number], float(self._demonstrations.lengths.mean())
        n_episodes = ceil(wanted / mean_length)  # at a time
        parts: list[Episodes] = []
        for part in count():
            seeds = self._seeds(number, n_episodes, part * n_episodes)
            parts.append(fly(self._cfg, self._spec, policy, seeds, title=f"round {number}, part {part + 1}")[0])
            if sum(len(flown.actions) for flown in parts) >= wanted:
                break
        return Episodes.concatenate(parts)

    def _seeds(self, number: int, n_episodes: int, offset: int = 0) -> np.ndarray:
        """Seeds of a round, which has two for each label, more than it can fly: every episode has a step."""
        first = self._cfg.demos.n_episodes + 2 * sum(self._n_labels[1:number])
        return self._spec.seeds("demonstrations", n_episodes, offset=first + offset)


def shares(budget: int, *, initial_fraction: float, n_rounds: int) -> list[int]:
    """How many labels come from the demonstrations, and from each round: together the budget."""
    first = round(initial_fraction * budget)
    ends = [first + (budget - first) * number // n_rounds for number in range(1, n_rounds + 1)]
    counts = np.diff([0, first, *ends]).tolist()
    if min(counts) < 1:
        raise ValueError(
            f"imitation.rounds and imitation.initial_fraction leave a round without labels: dataset.episodes hold "
            f"{budget} steps, of which the demonstrations and the rounds would get {counts}"
        )
    return counts
