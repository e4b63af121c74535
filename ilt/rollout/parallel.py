"""Flying in several processes: which of them flies which seeds, and what becomes of the seeds of one that dies."""

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
from ilt.rollout.loop import Episode, fly, in_order
from ilt.rollout.policies import Policy

log = logging.getLogger(__name__)

MOST_DEATHS = 10
"""Deaths of workers after which a flight is given up: more of them are not the fault of single seeds."""


class WorkerDied(RuntimeError):  # noqa: N818  (it says what happened)
    """Seeds could not be flown, because the processes that flew them died.

    Attributes:
        seeds: (n,) int64, those that are missing.
        episodes: all others, in the order of their seeds; None if there are none.
    """

    def __init__(self, seeds: np.ndarray, episodes: Episodes | None) -> None:
        count = 0 if episodes is None else len(episodes)
        super().__init__(
            f"the processes that flew these seeds died, each time anew: {_listed(seeds)}; {count} other episodes were "
            "flown. If memory is short, lower processes or n_envs"
        )
        self.seeds, self.episodes = seeds, episodes


@dataclass(frozen=True)
class _Shard:
    """What one process flies.

    Attributes:
        places: of its seeds among all, those that have not come back; in this order they are begun.
        n_envs: how many are in the air at once, so that these are always the first ones of `places`.
        again: whether the process that was to fly them before has died.
    """

    places: list[int]
    n_envs: int
    again: bool = False


def fly_in_processes(
    spec: EnvSpec, policy: Policy, seeds: np.ndarray, n_envs: int, n_processes: int
) -> Generator[Episode, None, None]:
    """As `fly`, in `n_processes` worker processes with `n_envs` episodes in the air in each of them.

    Each process gets every `n_processes`-th seed. When one dies, what it had sent is kept, the seeds that it had in
    the air are flown again, one at a time, by a fresh process, and those it had not begun by another. Seeds that kill
    that process too are given up, and a `WorkerDied` names them when all others are flown.
    """
    payload = dumps((spec, policy))
    shards = [_Shard(list(range(i, len(seeds), n_processes)), n_envs) for i in range(n_processes)]
    flown: list[Episode] = []
    lost: list[int] = []
    deaths = 0
    while shards and deaths <= MOST_DEATHS:
        tasks = [(payload, shard.places.copy(), seeds[shard.places], shard.n_envs) for shard in shards]
        shards_again: list[_Shard] = []
        with closing(workers.run(_fly_shard, tasks)) as arriving:
            for number, arrived in arriving:
                shard = shards[number]
                if isinstance(arrived, workers.Died):
                    deaths += 1
                    held, waiting = shard.places[: shard.n_envs], shard.places[shard.n_envs :]
                    fate = "given up" if shard.again else "flown again"
                    log.error("%s; it held these seeds, which are %s: %s", arrived.how, fate, _listed(seeds[held]))
                    if shard.again:
                        lost += held
                    else:
                        shards_again.append(_Shard(held, 1, again=True))
                    if waiting:
                        shards_again.append(replace(shard, places=waiting))
                    continue
                shard.places.remove(arrived.place)
                flown.append(arrived)
                yield arrived
        shards = shards_again
    lost += [place for shard in shards for place in shard.places]
    if lost:
        raise WorkerDied(seeds[sorted(lost)], in_order(flown, seeds) if flown else None)


def _fly_shard(payload: bytes, places: Sequence[int], seeds: np.ndarray, n_envs: int) -> Iterator[Episode]:
    """What a worker does."""
    torch.set_num_threads(1)
    spec, policy = ForkingPickler.loads(payload)
    for episode in fly(spec, policy, seeds, n_envs):
        yield episode._replace(place=places[episode.place])


def dumps(flight: tuple[EnvSpec, Policy]) -> bytes:
    """What flies, as the bytes that a worker is sent."""
    try:
        return bytes(_Pickler.dumps(flight))
    except Exception as error:
        error.add_note(
            "A policy is sent to the processes that fly it: its classes and functions must be defined at the top level "
            "of a module. In one process (n_processes=1, or the config key processes=1) any policy flies."
        )
        raise


class _Pickler(ForkingPickler):
    """Tensors travel by value and arrive on the CPU; torch's own way is a shared file for each of them."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, nn.Parameter):
            return nn.Parameter, (obj.detach(), obj.requires_grad)
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.detach().cpu().numpy(),)
        return NotImplemented


def _listed(seeds: np.ndarray) -> str:
    return ", ".join(map(str, seeds.tolist()))
