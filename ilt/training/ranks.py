"""Training with several processes: those that a config asks for on this machine, or those of torchrun or srun.

Lightning's own launcher runs the whole command again in every process, including its locks, its sweep and its expert,
and cannot do so within a job of a sweep. Here the other processes only train, with arguments that rank 0 sends them.
"""

import functools
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.distributed import DistError, FileStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from ilt.rollout.workers import SILENCE, report_stopped
from ilt.schema import ConfigError

GRACE = 3.0
"""Seconds to wait, when this process fails, for another process whose failure may be the cause."""

_POLL = 0.1
_TRAINING = "ilt/training"
_Result = TypeVar("_Result")


def cluster() -> ClusterEnvironment | None:
    """Return the environment of processes that torchrun or srun started together; None for a single process."""
    found: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        found = TorchElasticEnvironment()
    elif "SLURM_STEP_ID" in os.environ and SLURMEnvironment.detect():  # without a step, sbatch started it, not srun
        found = SLURMEnvironment(auto_requeue=False)
    else:
        return None
    return found if found.world_size() > 1 else None


def led(job: Callable[[], _Result]) -> _Result:
    """Run a job in rank 0 of the processes that torchrun or srun may have started.

    The others wait until the job trains, take part, and exit. If the job does not train, they exit when it is done.
    Raise ConfigError if these processes have already trained a run.
    """
    if (environment := cluster()) is None:
        return job()
    store = _meeting()
    if environment.global_rank() > 0:
        logging.getLogger().setLevel(logging.WARNING)
        if task := _wait_for(store):
            learn, arguments = ForkingPickler.loads(task)  # from rank 0 of this job
            learn(*arguments, DDPStrategy(cluster_environment=environment))
        sys.exit()
    if store.check([_TRAINING]):
        raise ConfigError("torchrun and srun start the processes of one run, but this is a second one; leave out -m")
    try:
        return job()
    finally:
        if not store.check([_TRAINING]):
            store.set(_TRAINING, "")


@functools.cache
def _meeting() -> Store:
    """Return the store that the processes of torchrun or srun share."""
    environment = cluster()
    assert environment is not None
    assert environment.main_address  # reading these properties sets the variables that torch reads
    assert environment.main_port
    store, _, _ = next(rendezvous("env://", environment.global_rank(), environment.world_size()))
    return store


def _wait_for(store: Store) -> bytes:
    """Wait for the training task from rank 0; empty if there is none. `Store.wait` would not react to Ctrl-C."""
    try:
        while not store.check([_TRAINING]):
            time.sleep(_POLL)
        return store.get(_TRAINING)
    except DistError:  # under srun, rank 0 serves the store and has ended
        return b""


class Joined(DDPStrategy):
    """Lightning's DistributedDataParallel strategy for processes that already run on this machine.

    Args:
        rank: rank of this process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(cluster_environment=_Rank(rank))

    def _configure_launcher(self) -> None:
        """Do nothing: all processes are already running, and Lightning must not set the number of threads."""


class _Rank(LightningEnvironment):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    def local_rank(self) -> int:
        return self._rank


@contextmanager
def joined(
    learn: Callable[..., Any], arguments: tuple[Any, ...], *, n_ranks: int, on_gpus: bool
) -> Iterator[DDPStrategy | None]:
    """Run `learn(*arguments, strategy)` in n_ranks − 1 other processes, within a context that waits for them.

    Processes that torchrun or srun started get the same arguments; see `led`. Yield this process's own strategy, or
    None if it is alone. This process is rank 0; it logs, prints and handles signals. If it fails, the others are
    killed. If one of them dies, raise RuntimeError: immediately on CPUs, after NCCL's timeout (ten minutes) on GPUs.

    Args:
        learn, arguments: a function at the top level of its module, and arguments that can be pickled.
        n_ranks: number of processes on this machine.
        on_gpus: whether the process of rank r uses GPU r.
    """
    if (environment := cluster()) is not None:
        _meeting().set(_TRAINING, bytes(ForkingPickler.dumps((learn, arguments))))  # type: ignore[arg-type]
        yield DDPStrategy(cluster_environment=environment)
        distributed.destroy_process_group()
        return
    if n_ranks == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # threads and CUDA contexts do not survive a fork
    others: list[tuple[SpawnProcess, Connection]] = []
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "store"  # a file, since a port may be taken
        try:
            for rank in range(1, n_ranks):
                receiver, sender = context.Pipe(duplex=False)
                world = (rank, n_ranks, on_gpus, meeting)
                process = context.Process(target=_join, args=(world, sender, learn, arguments), daemon=True)
                process.start()
                sender.close()
                others.append((process, receiver))
            for _, ready in others:
                ready.recv()  # EOFError if it died during its imports
            _init_process_group(0, n_ranks, on_gpus, meeting)
            threading.Thread(target=_watch, args=([process for process, _ in others],), daemon=True).start()
            yield Joined(0)
            for process, _ in others:
                process.join()
            _raise_for_dead([process for process, _ in others], None)
        except Exception as error:
            _raise_for_dead([process for process, _ in others], error)
            raise
        finally:
            for process, ready in others:
                process.kill()
                process.join()
                ready.close()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def total(value: Tensor) -> Tensor:
    """Sum a value over the processes that train together. Return it unchanged in a single process."""
    if distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
    return value


def _init_process_group(rank: int, n_ranks: int, on_gpus: bool, meeting: Path) -> None:
    distributed.init_process_group(
        "nccl" if on_gpus else "gloo",
        store=FileStore(str(meeting), n_ranks),
        rank=rank,
        world_size=n_ranks,
        device_id=torch.device("cuda", rank) if on_gpus else None,
    )


def _join(
    world: tuple[int, int, bool, Path], ready: Connection, learn: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Train in a process other than rank 0: ignore signals, which rank 0 handles, and end with the parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ready.send(None)
    _init_process_group(*world)
    learn(*arguments, Joined(world[0]))
    distributed.destroy_process_group()


def _watch(others: list[SpawnProcess]) -> None:
    """Report processes that were stopped while this one waits for them."""
    while any(process.is_alive() for process in others):
        report_stopped([process.pid for process in others])
        time.sleep(SILENCE)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _raise_for_dead(others: list[SpawnProcess], error: Exception | None) -> None:
    """Raise RuntimeError if another process failed, which may be the cause of this process's error."""
    until = time.monotonic() + GRACE
    for rank, process in enumerate(others, start=1):
        process.join(max(until - time.monotonic(), 0))
        if process.exitcode:
            raise RuntimeError(
                f"the process of rank {rank} ended with exit code {process.exitcode}; its own message is above"
            ) from error
