"""Worker processes: started once, reused by every rollout, ended with their parent. The imports here are light."""

import errno
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

from ilt.rollout.sockets import FOLDER

PRELOADED = ["ilt.rollout.sockets", "ilt.rollout.parallel", "ilt.tracking.run_folder", "hydra"]
"""Modules that the fork server imports once for all workers: those of rollouts and of the entry points."""

SILENCE = 60.0
"""Seconds without an episode after which stopped processes are reported."""

log = logging.getLogger(__name__)

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT: Any = multiprocessing.get_context(_METHOD)
_READY, _ITEM, _END, _ERROR, _DIED = "ready", "item", "end", "error", "died"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Died:
    """A worker process ended during its task; `how` names the process and says how it ended."""

    how: str


def n_processes(cfg: Any) -> int:
    """Return the config's `processes`, or one per core if it is null."""
    return cores() if cfg.processes is None else int(cfg.processes)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_early(cfg: Any) -> None:
    """Start importing the workers' modules in the background, and return immediately."""
    if n_processes(cfg) > 1:
        _start_server()


def _start_server() -> None:
    """Start the process from which workers are forked, if it is not running yet."""
    if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
        multiprocessing.set_start_method(_METHOD, force=True)  # workers do not know joblib's own start method
    if _METHOD == "forkserver":
        resource_tracker.ensure_running()  # otherwise the server starts it and unblocks interrupts again
        with _as_a_worker():
            process: Any = multiprocessing.current_process()
            if process._config.get("tempdir") is None:  # otherwise it is the parent's
                os.environ[FOLDER] = util.get_temp_dir()
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
            os.environ.pop(FOLDER, None)


def run(
    function: Callable[..., Iterable[Item]], tasks: Sequence[tuple[Any, ...]]
) -> Generator[tuple[int, Item | Died], None, None]:
    """Iterate over `function(*task)` for all tasks at the same time, each in its own worker.

    Yield (number of the task, item) as items arrive, in no fixed order between tasks. If a task's worker dies, its last
    item is (number, `Died`). Raise what `function` raised, with the worker's traceback as a note, and RuntimeError if
    workers cannot start. Close the generator if you do not iterate to its end; this kills the busy workers.
    """
    busy: dict[Connection, tuple[int, _Worker]] = {}
    try:
        for number in range(len(tasks)):
            worker = _idle_or_new()
            busy[worker.connection] = number, worker
        for number, worker in busy.values():
            worker.begin(function, tasks[number])
        while busy:
            if not (arrived := wait(list(busy), timeout=SILENCE)):
                report_stopped([worker.process.pid for _, worker in busy.values()])
            for connection in arrived:
                assert isinstance(connection, Connection)
                number, worker = busy[connection]
                kind, content = worker.receive()
                if kind in (_END, _ERROR, _DIED):
                    del busy[connection]
                if kind in (_END, _ERROR):
                    _IDLE.append(worker)
                if kind == _ERROR:
                    raise content
                if kind in (_ITEM, _DIED):
                    yield number, content
    finally:
        for _, worker in busy.values():
            worker.kill()


def report_stopped(pids: Sequence[int | None]) -> None:
    """Log a warning for each of these processes that is stopped (SIGSTOP, Ctrl-Z), since others wait for it."""
    for pid in pids:
        with suppress(OSError):  # it has ended, or this is not Linux
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].startswith(("T", "t")):
                log.warning("process %s is stopped, and others wait for it; continue it with: kill -CONT %s", pid, pid)


def stop() -> None:
    """End the idle workers. The next rollout starts new ones."""
    while _IDLE:
        _IDLE.pop().kill()


class _Worker:
    """The parent's handle to a process that serves tasks."""

    def __init__(self) -> None:
        _start_server()
        self._ready = False
        self.connection, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=serve, args=(theirs,), daemon=True)
        try:
            if _METHOD == "forkserver":
                self.process.start()
            else:
                with _as_a_worker():
                    self.process.start()
        except BaseException:
            self.connection.close()  # a half-started process then sees that its parent is gone
            raise
        finally:
            theirs.close()

    def begin(self, function: Callable[..., Any], task: tuple[Any, ...]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # `receive` will find it dead
            self.connection.send((function, task))

    def receive(self) -> tuple[str, Any]:
        """Return the next item, the end or the error of the worker's task, or `Died` if the worker died."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            return _DIED, Died(self._epitaph())
        self._ready = True
        if kind == _ERROR:
            content, text = content
            content.add_note(f"in worker process {self.process.pid}:\n{text}")
        return kind, content

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _epitaph(self) -> str:
        self.process.join(timeout=10)  # its pipe has closed, so it has just ended
        code, pid = self.process.exitcode, self.process.pid
        self.kill()
        if code == 1 and not self._ready:
            raise RuntimeError(
                "a worker process could not import what is __main__ here (its own message is above). A script that "
                'starts workers must be a file that does its work below `if __name__ == "__main__":`'
            )
        if code == errno.ENOMEM:
            return f"worker process {pid} ran out of memory"
        if code is None or code >= 0:
            return f"worker process {pid} ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"worker process {pid} was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


_IDLE: list[_Worker] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_IDLE.clear)  # workers belong to the process that started them


def _idle_or_new() -> _Worker:
    while _IDLE:
        worker = _IDLE.pop()
        if worker.process.is_alive():
            return worker
        worker.kill()
    return _Worker()


def serve(connection: Connection) -> None:
    """Run one task after another, until the parent closes the connection or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all processes; the parent decides
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send((_READY, None))
        while True:
            received = connection.recv_bytes()
            try:
                function, task = ForkingPickler.loads(received)
                for item in function(*task):
                    connection.send((_ITEM, item))
                answer: tuple[str, Any] = _END, None
            except (BrokenPipeError, ConnectionResetError):
                raise
            except MemoryError:
                os._exit(errno.ENOMEM)  # as if the kernel had killed it: its episodes are run again, fewer at once
            except Exception as error:
                answer = _ERROR, (sendable(error), traceback.format_exc())
            connection.send(answer)


def sendable(error: Exception) -> Exception:
    """Return the error if it can be pickled, otherwise a RuntimeError with the same text."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # pickling it can raise anything; the text is kept
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@contextmanager
def _as_a_worker() -> Iterator[None]:
    """Make processes started here ignore Ctrl-C, even during their imports, and use one thread."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in one_thread}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    os.environ.update(one_thread)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
