"""Rollouts: from a policy and seeds to `Episodes`, in one process or in several."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import current_process

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout.loop import in_order, run_episodes
from ilt.rollout.parallel import run_in_processes
from ilt.rollout.policies import Policy
from ilt.schema import PlainError


def rollout(
    spec: EnvSpec,
    policy: Policy,
    seeds: Sequence[int] | np.ndarray,
    *,
    n_envs: int = 64,
    n_processes: int = 1,
    on_episode: Callable[[float], None] | None = None,
) -> Episodes:
    """Run one episode per seed and return them in the order of `seeds`.

    Each episode depends only on the policy and its seed. The process, the slot and the other active episodes do not
    matter, except for rounding in batched matrix products.

    Args:
        spec: the environment.
        policy: chooses the actions. With several processes, each has its own copy, on the CPU.
        seeds: (E,) integers.
        n_envs: number of active episodes in each process.
        n_processes: number of processes, limited to the number of seeds; with 1, this process runs all episodes.
        on_episode: called with the return of each finished episode, for progress displays.

    Raises:
        ValueError: there are no seeds, or the policy returns anything but actions of the environment.
        PlainError: there is too little memory.
        WorkerDied: some seeds kill every process that runs them; the error contains the other episodes.
    """
    seeds = np.asarray(seeds, dtype=np.int64)
    if len(seeds) == 0:
        raise ValueError("there are no seeds to run")
    if n_envs < 1 or n_processes < 1:
        raise ValueError(f"n_envs and n_processes must be at least 1, got {n_envs} and {n_processes}")
    n_processes = min(n_processes, len(seeds))
    if n_processes == 1 or current_process().daemon:  # a daemon may not start processes
        running = run_episodes(spec, policy, seeds, n_envs)
    else:
        running = run_in_processes(spec, policy, seeds, n_envs, n_processes)
    done = []
    try:
        with _one_thread(), closing(running):
            for episode in running:
                done.append(episode)
                if on_episode is not None:
                    on_episode(float(episode.rewards.sum()))
        return in_order(done, seeds)
    except MemoryError as error:
        raise PlainError(
            f"there is not enough memory for {len(seeds)} episodes, {n_envs} active at once; lower n_envs"
        ) from error


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Set the number of CPU threads of torch and NumPy inside the context or the decorated function."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: for batches of a few dozen rows, synchronizing threads costs more than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
