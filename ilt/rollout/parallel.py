"""Rollouts in several processes: how seeds are distributed, and how a rollout recovers when a process dies."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout import workers
from ilt.rollout.loop import Episode, in_order, run_episodes
from ilt.rollout.policies import Policy
from ilt.schema import PlainError

log = logging.getLogger(__name__)

MOST_DEATHS = 10
"""Worker deaths that a rollout survives; more cannot be the fault of single seeds."""


class WorkerDied(PlainError):  # noqa: N818  (it says what happened)
    """Seeds could not be run, because the processes that ran them died.

    Attributes:
        seeds: (n,) int64, the missing seeds.
        episodes: all other episodes, in the order of their seeds; None if there are none.
    """

    def __init__(self, seeds: np.ndarray, episodes: Episodes | None) -> None:
        count = 0 if episodes is None else len(episodes)
        super().__init__(
            f"the processes that ran these seeds died every time: {_listed(seeds)}; {count} other episodes were run. "
            "If memory is short, lower processes or n_envs"
        )
        self.seeds, self.episodes = seeds, episodes


@dataclass(frozen=True)
class _Shard:
    """The seeds of one process.

    Attributes:
        places: indices of the seeds whose episodes have not arrived, in the order in which episodes start.
        n_envs: number of active episodes, which are always the first in `places`.
        again: whether a process that ran them has died before.
    """

    places: list[int]
    n_envs: int
    again: bool = False


def run_in_processes(
    spec: EnvSpec, policy: Policy, seeds: np.ndarray, n_envs: int, n_processes: int
) -> Generator[Episode, None, None]:
    """Yield episodes as `run_episodes` does, from `n_processes` workers with `n_envs` active episodes each.

    Each process gets every `n_processes`-th seed. When one dies, the episodes that it sent are kept. A new process runs
    its active seeds again, one at a time, and another new process runs those that had not started, half as many at
    once. Seeds that kill a second process are given up. When all others are done, `WorkerDied` names them.
    """
    payload = dumps((spec, policy))
    shards = [_Shard(list(range(i, len(seeds), n_processes)), n_envs) for i in range(n_processes)]
    done: list[Episode] = []
    lost: list[int] = []
    deaths = 0
    while shards and deaths <= MOST_DEATHS:
        tasks = [(payload, shard.places.copy(), seeds[shard.places], shard.n_envs) for shard in shards]
        shards_again: list[_Shard] = []
        with closing(workers.run(_run_shard, tasks)) as arriving:
            for number, arrived in arriving:
                shard = shards[number]
                if isinstance(arrived, workers.Died):
                    deaths += 1
                    held, waiting = shard.places[: shard.n_envs], shard.places[shard.n_envs :]
                    fate = "given up" if shard.again else "run again"
                    log.error("%s; it held these seeds, which are %s: %s", arrived.how, fate, _listed(seeds[held]))
                    if shard.again:
                        lost += held
                    else:
                        shards_again.append(_Shard(held, 1, again=True))
                    if waiting:
                        shards_again.append(replace(shard, places=waiting, n_envs=max(shard.n_envs // 2, 1)))
                    continue
                shard.places.remove(arrived.place)
                done.append(arrived)
                yield arrived
        shards = shards_again
    lost += [place for shard in shards for place in shard.places]
    if lost:
        raise WorkerDied(seeds[sorted(lost)], in_order(done, seeds) if done else None)


def _run_shard(payload: bytes, places: Sequence[int], seeds: np.ndarray, n_envs: int) -> Iterator[Episode]:
    """Run a shard in a worker process."""
    torch.set_num_threads(1)
    spec, policy = ForkingPickler.loads(payload)
    for episode in run_episodes(spec, policy, seeds, n_envs):
        yield episode._replace(place=places[episode.place])


def dumps(rollout: tuple[EnvSpec, Policy]) -> bytes:
    """Serialize spec and policy for a worker. Add a note to the error if they cannot be pickled."""
    try:
        return bytes(_Pickler.dumps(rollout))
    except Exception as error:
        error.add_note(
            "A policy is sent to the processes that run it: its classes and functions must be defined at the top level "
            "of a module. With one process (n_processes=1, or the config key processes=1), any policy works."
        )
        raise


class _Pickler(ForkingPickler):
    """Pickles tensors by value, on the CPU; torch's own reduction uses a shared file for each tensor."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, nn.Parameter):
            return nn.Parameter, (obj.detach(), obj.requires_grad)
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.detach().cpu().numpy(),)
        return NotImplemented


def _listed(seeds: np.ndarray) -> str:
    return ", ".join(map(str, seeds.tolist()))
