"""Worker processes: their results, how they end, and that none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing import Pipe, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ilt.rollout import workers

ROLLOUT = """
import signal

from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    spec = EnvSpec(id="LunarLander-v3")
    seeds = spec.seeds("demonstrations", 10**5)
    rollout(spec, RandomPolicy(spec.action_space), seeds, n_processes=2, on_episode=lambda _: print("done", flush=True))
"""


def count(first: int, last: int) -> Iterator[int]:
    yield from range(first, last)


def count_and_fail(first: int, last: int) -> Iterator[int]:
    yield from range(first, last)
    raise Unsendable(first, "failed")


def process_id() -> Iterator[int]:
    yield os.getpid()


def environment() -> Iterator[Any]:
    yield os.environ["OPENBLAS_NUM_THREADS"], signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def die(code: int) -> Iterator[int]:
    yield 1
    os._exit(code)


class Unsendable(Exception):  # noqa: N818
    """Cannot be rebuilt from its message alone, as unpickling tries to do."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{text} {number}")


def results(function: Any, *tasks: tuple[Any, ...]) -> list[list[Any]]:
    found: list[list[Any]] = [[] for _ in tasks]
    for number, item in workers.run(function, list(tasks)):
        found[number].append(item)
    return found


def light_results() -> list[list[Any]]:
    """Run two tasks in workers without preloaded imports."""
    workers.PRELOADED.clear()
    return results(count, (0, 2), (2, 4))


def members(group: int) -> list[str]:
    """Return the processes of a group that are still running."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,pid=,stat=,args="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    return [" ".join(line) for line in lines if line[0] == str(group) and not line[2].startswith("Z")]


def gone(group: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while members(group) and time.monotonic() < until:
        time.sleep(0.1)
    return not members(group)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that runs episodes in two workers, in its own process group, after its first episode."""
    (tmp_path / "running.py").write_text(ROLLOUT)
    command, pipe = [sys.executable, str(tmp_path / "running.py")], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n", process.communicate()[1]
    assert len(members(process.pid)) >= 4  # parent, fork server, two workers, maybe the resource tracker
    yield process
    process.kill()
    process.communicate()


def test_each_task_has_its_own_process_and_processes_are_reused() -> None:
    first, again = results(process_id, (), ()), results(process_id, (), ())
    assert len({pid for (pid,) in first} | {os.getpid()}) == 3
    assert sorted(again) == sorted(first)


def test_items_arrive_in_order_with_the_number_of_their_task() -> None:
    assert results(count, (0, 3), (10, 12), (5, 5)) == [[0, 1, 2], [10, 11], []]


def test_workers_use_one_thread_and_ignore_interrupts() -> None:
    assert results(environment, ()) == [[("1", True)]]


def test_starting_workers_early_does_not_change_the_parent() -> None:
    before = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    workers.start_early(SimpleNamespace(processes=2))
    assert (dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, [])) == before


def test_a_worker_that_died_while_idle_is_replaced() -> None:
    results(count, (0, 1))
    for worker in workers._IDLE:
        os.kill(worker.process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        worker.process.join()
    assert results(count, (0, 2), (0, 1)) == [[0, 1], [0]]


@pytest.mark.parametrize("code", [0, 3])
def test_a_worker_that_exits_is_reported(code: int) -> None:
    item, died = results(die, (code,))[0]
    assert item == 1
    assert died.how.endswith(f"ended with exit code {code}")


def test_an_unpicklable_error_is_reported_as_text_and_the_worker_survives() -> None:
    before = results(process_id, ())
    with pytest.raises(RuntimeError, match="Unsendable: failed 7") as caught:
        results(count_and_fail, (7, 8))
    assert "in count_and_fail" in caught.value.__notes__[0]
    assert results(process_id, ()) == before


def test_closing_a_run_leaves_no_busy_worker() -> None:
    with closing(workers.run(count, [(0, 10**9), (0, 10**9)])) as arriving:
        next(arriving)
        idle = len(workers._IDLE)
    assert len(workers._IDLE) == idle
    assert results(count, (0, 2)) == [[0, 1]]


def test_null_means_every_available_core() -> None:
    assert workers.n_processes(SimpleNamespace(processes=3)) == 3
    assert 1 <= workers.n_processes(SimpleNamespace(processes=None)) <= (os.cpu_count() or 1)


def test_a_worker_serves_until_its_parent_is_gone() -> None:
    ours, theirs = Pipe()
    before = signal.getsignal(signal.SIGINT)
    for task in ((count, (0, 2)), (count_and_fail, (0, 1)), (count, (5, 6))):
        ours.send(task)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: (answers.extend(ours.recv() for _ in range(8)), ours.close()))
    thread.start()
    workers.serve(theirs)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert [kind for kind, _ in answers] == ["ready", "item", "item", "end", "item", "error", "item", "end"]


@pytest.mark.slow
def test_a_script_without_a_main_guard_fails_with_a_hint(tmp_path: Path) -> None:
    script = "from ilt.rollout import workers\nprint(list(workers.run(range, [(3,), (4,)])))\n"
    (tmp_path / "unguarded.py").write_text(script)
    process = subprocess.run([sys.executable, str(tmp_path / "unguarded.py")], capture_output=True, text=True)
    assert process.returncode == 1
    assert 'below `if __name__ == "__main__":`' in process.stderr


@pytest.mark.slow
def test_an_interrupt_of_the_process_group_ends_everything_at_once(running: subprocess.Popen[str]) -> None:
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert errors.count("Traceback") == 1  # the parent's; workers print nothing
    assert "KeyboardInterrupt" in errors
    assert gone(running.pid, 15), members(running.pid)


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(running: subprocess.Popen[str]) -> None:
    os.kill(running.pid, signal.SIGKILL)
    assert gone(running.pid, 20), members(running.pid)


@pytest.mark.slow
def test_a_joblib_worker_can_start_its_own_workers() -> None:
    work = "Parallel(n_jobs=2)(delayed(light_results)() for _ in range(2))"
    code = f"from joblib import Parallel, delayed; from tests.rollout.test_workers import light_results; print({work})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.strip() == str([[[0, 1], [2, 3]]] * 2), process.stderr


def stop_first() -> Iterator[int]:
    yield os.getpid()
    os.kill(os.getpid(), signal.SIGSTOP)
    yield 0


def test_a_stopped_worker_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.2)
    with closing(workers.run(stop_first, [()])) as arriving:
        _, pid = next(arriving)
        continued = threading.Timer(1.0, os.kill, (pid, signal.SIGCONT))
        continued.start()
        assert next(arriving) == (0, 0)
    assert f"process {pid} is stopped, and others wait for it; continue it with: kill -CONT {pid}" in caplog.text


def test_a_killed_parent_leaves_no_sockets(tmp_path: Path) -> None:
    code = """if True:
        import os, signal
        from ilt.rollout import workers
        if __name__ == "__main__":
            workers.PRELOADED[1:] = []
            next(workers.run(range, [(1,)]))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "script.py").write_text(code)
    subprocess.run([sys.executable, tmp_path / "script.py"], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    until = time.monotonic() + 30
    while list(tmp_path.glob("pymp-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list(tmp_path.glob("pymp-*"))


def _use_workers() -> None:
    workers.PRELOADED[1:] = []
    next(workers.run(range, [(1,)]))


@pytest.mark.slow
def test_workers_of_a_child_keep_the_sockets_of_its_parent() -> None:
    folder = Path(util.get_temp_dir())
    child = multiprocessing.get_context("spawn").Process(target=_use_workers)
    child.start()
    child.join()
    time.sleep(3.0)  # longer than the fork server outlives the child
    assert child.exitcode == 0
    assert folder.is_dir()
