"""Several processes that learn one model: as many on this machine as a config asks for, or as torchrun or srun started.

Lightning's own launcher repeats the command line for every further process, with its locks, its sweep and its expert,
and cannot do so within a job of a sweep. Here only the training is repeated: rank 0 hands it to the others.
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

from ilt.schema import ConfigError

GRACE = 3.0
"""Seconds that other processes have, when this one fails, to have failed before it."""

_POLL = 0.1
_TRAINING = "ilt/training"
_Result = TypeVar("_Result")


def cluster() -> ClusterEnvironment | None:
    """What torchrun or srun says of the processes that it started together; None where this one is alone."""
    found: ClusterEnvironment
    if TorchElasticEnvironment.detect():
        found = TorchElasticEnvironment()
    elif "SLURM_STEP_ID" in os.environ and SLURMEnvironment.detect():  # without a step, sbatch started it and not srun
        found = SLURMEnvironment(auto_requeue=False)
    else:
        return None
    return found if found.world_size() > 1 else None


def led(job: Callable[[], _Result]) -> _Result:
    """Run a job, where torchrun or srun may have started several processes for it: rank 0 does.

    The others wait until it trains, take part in that, and exit; without a training they exit when it is done.
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
    """What the processes share that torchrun or srun started together."""
    environment = cluster()
    assert environment is not None
    assert environment.main_address  # reading them puts them where torch looks for them
    assert environment.main_port
    store, _, _ = next(rendezvous("env://", environment.global_rank(), environment.world_size()))
    return store


def _wait_for(store: Store) -> bytes:
    """What rank 0 hands out, or nothing. A wait of the store's own would not be interrupted by Ctrl-C."""
    try:
        while not store.check([_TRAINING]):
            time.sleep(_POLL)
        return store.get(_TRAINING)
    except DistError:  # under srun rank 0 keeps the store, and has ended
        return b""


class Joined(DDPStrategy):
    """Lightning's DistributedDataParallel among processes of this machine that are there already.

    Args:
        rank: of this process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(cluster_environment=_Rank(rank))

    def _configure_launcher(self) -> None:
        """There is nothing to launch, nor is the number of threads Lightning's to choose."""


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
    """A context in which `learn(*arguments, strategy)` runs in n_ranks − 1 further processes, until they are done.

    Where torchrun or srun started the others, they are handed the same, see `led`. Yields this process's own strategy
    for that training, None where it is alone. Rank 0 stays in the process that logs, prints and is told to end. Where
    it fails, the others are killed; where one of them died, RuntimeError says so: on CPUs at once, on GPUs when NCCL's
    time is out (ten minutes).

    Args:
        learn, arguments: a function at the top level of its module, and what can be pickled.
        n_ranks: how many processes there are.
        on_gpus: whether the process of rank r is to use GPU r.
    """
    if (environment := cluster()) is not None:
        _meeting().set(_TRAINING, bytes(ForkingPickler.dumps((learn, arguments))))  # type: ignore[arg-type]
        yield DDPStrategy(cluster_environment=environment)
        distributed.destroy_process_group()
        return
    if n_ranks == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # neither threads nor what is on a GPU survive a fork
    others: list[tuple[SpawnProcess, Connection]] = []
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "store"  # a file, for there is no port that is certain to be free
        try:
            for rank in range(1, n_ranks):
                receiver, sender = context.Pipe(duplex=False)
                world = (rank, n_ranks, on_gpus, meeting)
                process = context.Process(target=_join, args=(world, sender, learn, arguments), daemon=True)
                process.start()
                sender.close()
                others.append((process, receiver))
            for _, ready in others:
                ready.recv()  # or EOFError, where it died while it imported
            _init_process_group(0, n_ranks, on_gpus, meeting)
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
    """The sum of a value over the processes that learn together; where this one is alone, the value."""
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
    """The life of a further process. Signals are rank 0's to act on, and without its parent there is nothing to do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ready.send(None)
    _init_process_group(*world)
    learn(*arguments, Joined(world[0]))
    distributed.destroy_process_group()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _raise_for_dead(others: list[SpawnProcess], error: Exception | None) -> None:
    """RuntimeError if one of the others failed, which may have been what this process then met as an error."""
    until = time.monotonic() + GRACE
    for rank, process in enumerate(others, start=1):
        process.join(max(until - time.monotonic(), 0))
        if process.exitcode:
            raise RuntimeError(
                f"the process of rank {rank} ended with exit code {process.exitcode}; its own message stands above"
            ) from error
