"""Several processes that learn one model: as many on this machine as a config asks for, or as torchrun or srun started.

Lightning's own launcher repeats the command line for every further process, with its locks, its sweep and its expert, and
cannot do so within a job of a sweep. Here only the training is repeated.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.distributed import FileStore  # type: ignore[attr-defined]

GRACE = 3.0
"""Seconds that other processes have, when this one fails, to have failed before it."""


def launched_together() -> bool:
    """Whether torchrun or srun started this process as one of several."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"]) > 1
    return SLURMEnvironment.detect() and SLURMEnvironment(auto_requeue=False).world_size() > 1


def global_rank() -> int:
    """Which of the processes this is that torchrun or srun started together; 0 where it is alone."""
    if not launched_together():
        return 0
    return int(os.environ["RANK"] if TorchElasticEnvironment.detect() else os.environ["SLURM_PROCID"])


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

    Yields this process's own strategy, for the same training, None where it is alone or was started with the others. Rank 0
    stays in the process that logs, prints and is told to end. Where it fails, the others are killed; where one of them
    died, RuntimeError says so: on CPUs at once, on GPUs when NCCL's time is out (ten minutes).

    Args:
        learn, arguments: a function at the top level of its module, and what can be pickled.
        n_ranks: how many processes there are.
        on_gpus: whether the process of rank r is to use GPU r.
    """
    if n_ranks == 1 or launched_together():
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
