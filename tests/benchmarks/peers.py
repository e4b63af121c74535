"""Comparison with other imitation-learning packages on the Lunar Lander, with the same demonstrations, in one thread.

Each package has its own virtual environment in `outputs/bench/peers/`, which is created once and kept.
Its script in `peer_scripts/` reads the demonstrations and prints its numbers; start-up is not counted. A batch has 256
windows or steps. In evaluations, the policy computes every action, but the recorded one is executed, so all of them run
the expert's episodes. With Stable-Baselines3, the expert itself acts.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.rollout.run import rollout
from tests.benchmarks import sb3
from tests.benchmarks.measuring import Beside, Row, announced
from tests.benchmarks.rollouts import SPACE, Recorded, acting, decoder, shipped_expert, student
from tests.benchmarks.training import loader, training

N_DEMONSTRATIONS, N_BATCHES, REPEATS = 1000, 500, 3
SHARED = ("torch==2.13.0", "numpy==2.4.6")
LANDER = ("box2d==2.3.10", "pygame-ce==2.5.8")  # the simulator, as in constraints.txt
REQUIREMENTS = {
    "d3rlpy": ("d3rlpy==2.8.1", "gymnasium==1.0.0", *LANDER),
    "imitation": ("imitation==1.0.1", "stable-baselines3==2.2.1", "gymnasium==0.29.1", *LANDER),
    "il_datasets": (
        "il-datasets==1.0.0", "gymnasium==1.2.3", *LANDER,
        "gym==0.26.2", "pyyaml==6.0.3", "tensorboard==2.21.0", "tensorboard-wrapper==0.2.1",
    ),
    "torchrl": ("torchrl==0.14.1", "tensordict==0.14.3"),
}  # fmt: skip
"""What is installed for each package, in addition to `SHARED`."""

ROWS: dict[str, tuple[str, str, dict[str, str | None]]] = {
    "train": (
        "train tiny, K = 8, in one thread", "s per million labels",
        {
            "d3rlpy Decision Transformer": "≤ 0.25", "d3rlpy BC": "≤ 1", "imitation BC": "≤ 1", "IL-Datasets BC": "≤ 1",
            "TorchRL, bare loop": None,
        },
    ),
    "evaluate": (
        "evaluate tiny, K = 8, in one process", "steps/s",
        {
            "d3rlpy Decision Transformer": "≥ 25", "imitation rollout, 16 envs": "≥ 1",
            "SB3 evaluate_policy, 16 envs": "≥ 1",
        },
    ),
}  # fmt: skip
"""For each kind of work: the row's name and unit, and its references with their bars."""

Measured = dict[str, dict[str, float]]
"""By kind of work and name."""


def peers(spec: EnvSpec) -> list[Row]:
    """Measure training and evaluation with every package in turn, several times."""
    pythons = {name: _installed(name) for name in REQUIREMENTS}
    episodes = rollout(spec, shipped_expert(), spec.seeds("demonstrations", N_DEMONSTRATIONS))
    rounds: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        episodes.save(Path(folder) / "demonstrations.npz")
        for _ in range(REPEATS):
            measured = _ours(spec, episodes)
            for name, python in pythons.items():
                for kind, values in _theirs(name, python, folder).items():
                    measured[kind].update(values)
            measured["evaluate"]["SB3 evaluate_policy, 16 envs"] = sb3.evaluation(spec)
            rounds.append(measured)
    return [
        announced(
            Row(
                work=work,
                unit=unit,
                ours=[measured[kind]["ours"] for measured in rounds],
                besides=[
                    Beside(name, [measured[kind][name] for measured in rounds], bar) for name, bar in bars.items()
                ],
            )
        )
        for kind, (work, unit, bars) in ROWS.items()
    ]


def _ours(spec: EnvSpec, episodes: Episodes) -> Measured:
    windows = WindowDataset(episodes, action_space=SPACE, context_length=8)
    labels_per_second = training(decoder("tiny", 8), loader(windows), N_BATCHES)()
    steps_per_second = acting(spec, student("tiny", 8, expert=Recorded(episodes)), episodes.seeds)()
    return {"train": {"ours": 1e6 / labels_per_second}, "evaluate": {"ours": steps_per_second}}


def _theirs(name: str, python: Path, folder: str) -> Measured:
    """Run a package's script in the folder with the demonstrations; its last line has the numbers."""
    script = Path(__file__).with_name("peer_scripts") / f"run_{name}.py"
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [python.absolute(), script, "demonstrations.npz"]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _installed(name: str) -> Path:
    """Return the package's interpreter; first create its environment if it is missing or has other versions."""
    folder, wanted = Path("outputs/bench/peers") / name, "\n".join((*SHARED, *REQUIREMENTS[name]))
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted:
        sys.stderr.write(f"installing {', '.join(wanted.split())} into {folder}\n")
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *wanted.split()], check=True)
        installed.write_text(wanted)
    return python
