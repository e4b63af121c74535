"""Several processes that learn one model: one that leads them, others beside it, and as many on further machines."""

import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

LAST_WORDS = 3.0
"""Seconds that the others have, when this process fails, to have failed before it."""


PATIENCE = timedelta(days=1)
"""How long a further machine waits for the first one to have an expert, demonstrations, and all that training needs."""


@dataclass(frozen=True)
class Machines:
    """Those that learn one model together, with the same number of processes each.

    Attributes:
        count: how many there are.
        this: which one this is, from 0 on; the first one leads.
        host, port: where the first one is met.
    """

    count: int = 1
    this: int = 0
    host: str = ""
    port: int = 0

    @classmethod
    def read(cls, count: int) -> "Machines":
        """What started this process on each of `count` machines says: SLURM, or NODE_RANK, MASTER_ADDR and MASTER_PORT.

        ValueError names what is missing.
        """
        if count == 1:
            return cls()
        if SLURMEnvironment.detect():
            slurm = SLURMEnvironment(auto_requeue=False)
            return cls(count, slurm.node_rank(), slurm.main_address, slurm.main_port)
        missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ValueError(
                f"trainer.num_nodes={count} needs srun, or the environment variables NODE_RANK (from 0 on) and "
                f"MASTER_ADDR and MASTER_PORT (of the first machine); {', '.join(missing)} must be set"
            )
        this = int(os.environ["NODE_RANK"])
        if not 0 <= this < count:
            raise ValueError(f"NODE_RANK must be from 0 to {count - 1} for trainer.num_nodes={count}, got {this}")
        return cls(count, this, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))

    def hear(self) -> dict[str, Any]:
        """On a further machine: what the first one says of its training, once it begins. Until then Ctrl-C ends it."""
        until = time.monotonic() + PATIENCE.total_seconds()
        while not self._answers() and time.monotonic() < until:
            time.sleep(1)
        return json.loads(self._client().get("told"))

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=10):
            return True
        return False

    def _lead(self, told: dict[str, Any]) -> TCPStore:
        store = TCPStore(self.host, self.port, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        store.set("told", json.dumps(told))
        return store

    def _client(self) -> TCPStore:
        return TCPStore(self.host, self.port, is_master=False, timeout=PATIENCE)


@dataclass(frozen=True)
class _World:
    """All processes that learn together.

    Attributes:
        n_ranks: how many of them each machine has.
        meeting: a file in which those of one machine find each other, for there is no port that is certain to be free.
    """

    n_ranks: int
    on_gpus: bool
    machines: Machines
    meeting: Path

    def meet(self, local_rank: int, store: Store | None = None) -> None:
        """Take part, as the process of this rank on this machine."""
        size = self.machines.count * self.n_ranks
        if store is None:
            store = FileStore(str(self.meeting), size) if self.machines.count == 1 else self.machines._client()
        distributed.init_process_group(
            "nccl" if self.on_gpus else "gloo",
            store=store,
            rank=self.machines.this * self.n_ranks + local_rank,
            world_size=size,
            device_id=torch.device("cuda", local_rank) if self.on_gpus else None,
        )


class Joined(DDPStrategy):
    """Lightning's DistributedDataParallel among processes that are there already.

    Lightning's own would repeat the command line for every further process: its locks, its sweep, its expert.

    Args:
        rank: of this process, on its machine.
        machine: which one that is.
    """

    def __init__(self, rank: int, machine: int = 0) -> None:
        super().__init__(cluster_environment=_Rank(rank, machine))

    def _configure_launcher(self) -> None:
        """There is nothing to launch, nor is the number of threads Lightning's to choose."""


class _Rank(LightningEnvironment):
    def __init__(self, rank: int, machine: int) -> None:
        super().__init__()
        self._rank, self._machine = rank, machine

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return self._machine


@contextmanager
def joined(
    learn: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    n_ranks: int,
    on_gpus: bool,
    machines: Machines = Machines(),
    told: dict[str, Any] | None = None,
) -> Iterator[DDPStrategy | None]:
    """A context in which `learn(*arguments, strategy)` runs in n_ranks − 1 further processes, until they are done.

    Yields this process's own strategy, for the same training, None where it is alone. Rank 0 stays in the process that
    logs, prints and is told to end. Where it fails, the others are killed; where one of them died, RuntimeError says
    so: on CPUs at once, on GPUs when NCCL's time is out (ten minutes).

    Args:
        learn, arguments: a function at the top level of its module, and what can be pickled.
        n_ranks: how many processes this machine has, and each of `machines`.
        on_gpus: whether the process of rank r on its machine is to use GPU r of it.
        told: what the first machine has to say to the others, as JSON can.
    """
    if n_ranks * machines.count == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # neither threads nor what is on a GPU survive a fork
    others: list[tuple[SpawnProcess, Connection]] = []
    with tempfile.TemporaryDirectory() as folder:
        world = _World(n_ranks, on_gpus, machines, Path(folder) / "meeting")
        store = machines._lead(told or {}) if machines.count > 1 and machines.this == 0 else None
        try:
            for rank in range(1, n_ranks):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_accompany, args=(rank, world, theirs, learn, arguments), daemon=True)
                process.start()
                theirs.close()
                others.append((process, ours))
            for _, ready in others:
                ready.recv()  # or EOFError, where it died while it imported
            world.meet(0, store)
            yield Joined(0, machines.this)
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


def _accompany(
    rank: int,
    world: _World,
    ready: Connection,
    learn: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """The life of a further process of this machine. Without its parent there is nothing to do."""
    leave_signals_to_the_first()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ready.send(None)
    world.meet(rank)
    learn(*arguments, Joined(rank, world.machines.this))
    distributed.destroy_process_group()


def leave_signals_to_the_first() -> None:
    """Signals are rank 0's to act on, which tells the others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _raise_for_dead(others: list[SpawnProcess], error: Exception | None) -> None:
    """RuntimeError if one of the others failed, which may have been what this process then met as an error."""
    until = time.monotonic() + LAST_WORDS
    for rank, process in enumerate(others, start=1):
        process.join(max(until - time.monotonic(), 0))
        if process.exitcode:
            raise RuntimeError(
                f"the process of rank {rank} ended with exit code {process.exitcode}; its own message stands above"
            ) from error
