"""The Python API as a notebook uses it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

import ilt
from ilt import api
from ilt.experts.gate import GateError
from tests.cli.commands import run_command

SMALL: dict[str, Any] = {
    "model": "nano", "context_length": 3, "max_steps": 8, "evaluation": {"n_episodes": 4, "video": False},
    "callbacks": {"rollout": {"n_episodes": 2}}, "dataset": {"context_length": 3, "batch_size": 8},
}  # fmt: skip


def lean(observations: np.ndarray) -> np.ndarray:
    """Balance the pole."""
    return (observations[:, 2] + observations[:, 3] > 0).astype(int)


ENV = ilt.make_env("CartPole-v1", kwargs={"max_episode_steps": 15}, success_return=15)
EXPERT = ilt.load_expert(lean, ENV)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def demos(outputs: Path) -> ilt.Demonstrations:
    return ilt.collect(EXPERT, ENV, n_episodes=20, outputs=outputs)


@pytest.fixture(scope="module")
def run(demos: ilt.Demonstrations, outputs: Path) -> ilt.Run:
    return ilt.train(demos, env=ENV, outputs=outputs, **SMALL)


def test_an_expert_becomes_a_scored_student(demos: ilt.Demonstrations, run: ilt.Run) -> None:
    assert (len(demos), len(demos.validation)) == (20, 2)
    assert demos.episodes.seeds.tolist() == list(range(20))
    assert (run.results["expert"], run.results["expert_return_mean"]) == ("lean", 15.0)
    scored = ilt.evaluate(run, ENV, n_episodes=4)
    assert (scored["n_episodes"], scored["return_mean"]) == (4, run.results["return_mean"])
    compared = ilt.compare({"student": run, "expert": demos.expert or "", "by name": run.path}, ENV, seeds="test:4")
    assert list(compared) == ["student", "expert", "by name", "random"]
    assert compared["student"]["return_mean"] == compared["by name"]["return_mean"] == scored["return_mean"]


def test_a_comparison_stops_when_it_is_decided(tmp_path: Path) -> None:
    def fall(observations: np.ndarray) -> np.ndarray:
        return np.zeros(len(observations), dtype=int)

    policies = {name: ilt.load_expert(act, ENV) for name, act in (("worse", fall), ("same", lean), ("lean", lean))}
    arguments = {"env": ENV, "reference": "lean", "margin": 0.15, "outputs": tmp_path}
    found = ilt.compare(policies, **arguments, until="decided", seeds="test:400")
    decisions = {name: numbers["decision"] for name, numbers in found.items() if "decision" in numbers}
    assert {name: decision["outcome"] for name, decision in decisions.items()} == {"worse": "worse", "same": "equal"}
    assert decisions["worse"]["n_episodes"] == found["worse"]["n_episodes"] == 100 < found["lean"]["n_episodes"] < 400
    assert decisions["worse"]["sentence"].startswith("lean is better than worse by ")
    assert found["worse"]["difference"]["kind"] == "confidence sequence"
    fixed = ilt.compare(policies, **arguments, seeds="test:100")
    assert (fixed["worse"]["noninferior"], fixed["same"]["noninferior"]) == (False, True)
    assert fixed["worse"]["return_mean"] == found["worse"]["return_mean"]


def test_the_same_call_returns_the_finished_run(
    demos: ilt.Demonstrations, run: ilt.Run, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.pipeline, "train_and_score", None)
    again = ilt.train(demos, env=ENV, outputs=outputs, **SMALL)
    assert (again.path, again.results) == (run.path, run.results)


def test_a_policy_acts_in_an_environment_as_in_stable_baselines3(run: ilt.Run) -> None:
    policy, simulator = ilt.load_policy(run.path, ENV), gym.make("CartPole-v1", max_episode_steps=15)
    observation, _ = simulator.reset(seed=int(ENV.seeds("test", 1)[0]))
    state, total, over = None, 0.0, False
    while not over:
        action, state = policy.predict(observation, state)
        observation, reward, terminated, truncated, _ = simulator.step(action)
        total, over = total + float(reward), terminated or truncated
    assert total == ilt.evaluate(policy, ENV, seeds="test:1")["return_mean"]


def test_commands_accept_runs_made_in_python(
    run: ilt.Run, outputs: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fixed = [f"outputs={outputs}", "processes=1"]
    evaluated = run_command("evaluate", f"run={run.path}", "seeds=test:4", "logger=none", *fixed)
    assert evaluated == run.results["return_mean"]
    assert "the run's expert, lean, is not kept; random stands in for it" in caplog.text
    assert run_command("report", f"runs={outputs}/runs", "videos=false", *fixed) == 1
    policies = [f"+policies.student={run.path}", "name=it", "seeds=test:4", "env=gymnasium", "env.id=CartPole-v1"]
    assert run_command("compare", *policies, "+env.kwargs.max_episode_steps=15", *fixed) == run.results["return_mean"]
    capsys.readouterr()
    run_command("list", "kind=runs", f"outputs={outputs}")
    assert run.path.name.startswith("CartPole-v1-nano-K3-lean-s0-")
    assert run.path.name[:24] in capsys.readouterr().out


def test_a_student_learns_from_given_episodes(demos: ilt.Demonstrations, tmp_path: Path) -> None:
    settings = {**SMALL, "imitation": "dagger", "trainer": {"max_steps": 16, "val_check_interval": 4}}
    plain = ilt.train(demos.episodes, env=ENV, expert=EXPERT, outputs=tmp_path, **settings)
    assert len(plain.results["imitation"]["by_round"]) == 4
    manifest = json.loads((tmp_path / "demos" / plain.results["demonstrations"] / "manifest.json").read_text())
    assert manifest["metrics"]["validation"]["length_mean"] == 15
    recurrent = ilt.train(demos.episodes, env=ENV, outputs=tmp_path, **{**SMALL, "model": "lstm"})
    nothing = [recurrent.results[name] for name in ("expert", "expert_return_mean", "performance")]
    assert nothing == [None, None, None]
    assert recurrent.path != plain.path


def test_a_student_learns_from_episodes_without_an_environment(demos: ilt.Demonstrations, tmp_path: Path) -> None:
    run = ilt.train(demos, env=None, outputs=tmp_path, **SMALL)
    assert (run.results["return_mean"], run.results["env"], run.results["expert"]) == (None, "none", None)
    policy, observations = ilt.load_policy(run.path), np.zeros((2, 4), np.float32)
    actions, state = policy.predict(observations)
    assert actions.tolist() == run.policy.predict(observations)[0].tolist()
    policy.predict(observations, state)
    assert ilt.evaluate(ilt.load_policy(run.path, ENV), ENV, n_episodes=2)["n_episodes"] == 2
    with pytest.raises(ilt.ConfigError, match="expert must be None where env is None"):
        ilt.train(demos.episodes, env=None, expert=EXPERT, outputs=tmp_path, **SMALL)


def test_a_policy_and_an_sb3_file_are_experts(outputs: Path) -> None:
    assert ilt.evaluate(ilt.load_expert(EXPERT.policy, ENV), ENV, n_episodes=3)["return_mean"] == 15.0
    PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu").save(outputs / "ppo.zip")
    with pytest.raises(GateError):
        ilt.load_expert(outputs / "ppo.zip", ENV, outputs=outputs, gate=16)
    saved = ilt.load_expert(outputs / "ppo.zip", ENV, outputs=outputs)
    assert saved.name == "ppo"
    assert 5 < ilt.evaluate(saved, ENV, n_episodes=3)["return_mean"] <= 15


def test_a_shipped_expert_is_found_and_its_student_can_be_rescored(tmp_path: Path) -> None:
    env = replace(ilt.make_env("lunar_lander"), success_return=None, crash_reward=None)
    expert = ilt.load_expert("ppo", env, outputs=tmp_path, train=False)
    assert expert.artifact is not None
    assert (expert.selection_return or 0) > 270
    demos = ilt.collect(expert, env, n_episodes=2, outputs=tmp_path)
    assert len(demos.validation) == 1
    run = ilt.train(demos, env=env, outputs=tmp_path, **{**SMALL, "evaluation": {"n_episodes": 2, "video": False}})
    again = [f"run={run.path}", "seeds=test:2", f"outputs={tmp_path}", "processes=1", "logger=none"]
    assert run_command("evaluate", *again) == run.results["return_mean"]
    evaluated = json.loads(next(run.path.glob("evaluations/*")).read_text())
    assert evaluated["expert_return_mean"] == run.results["expert_return_mean"] > 200


MODELS = r"\['base', .*'tiny', 'transformer'\]"
RATE = "optimizer.learning_rate"


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("train", {"context_length": 0}, "dataset.context_length must be an integer of at least 1, got 0"),
        ("train", {"model": "tinny"}, f"model must be one of {MODELS}, got tinny"),
        ("train", {"optimizer": {"learning_rte": 1}}, f"optimizer.learning_rte is not a key; did you mean {RATE}"),
        ("train", {"learning_rate": 1}, "learning_rate is not a setting; those are "),
        ("train", {"evaluation": {"n_episodes": 1000001}}, "evaluation.n_episodes must be at most 1000000"),
        ("train", {"seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        (
            "train",
            {"env": ilt.EnvSpec(id="Pendulum-v1")},
            "demos has observations of 4 numbers, but env shows students 3",
        ),
        ("make_env", {"id": "CartPoel-v1"}, r"^env\.id"),
        (
            "make_env",
            {"id": "CartPole-v1", "sucess_return": 1},
            r"^env\.sucess_return is not a key; .*env.success_return",
        ),
        ("load_expert", {"expert": "nobody"}, "expert must be one of .* or a file, got nobody"),
        (
            "load_expert",
            {"expert": "ppo", "train": False},
            "expert.train must be true, .* ppo for CartPole-v1 must be tr",
        ),
        ("load_expert", {"expert": "ppo", "totl_steps": 1}, "expert.totl_steps is not a key; .*expert.total_steps"),
        ("load_expert", {"expert": lean, "gate": 1}, "gate is not a setting of a function or policy"),
        ("compare", {"policies": {"a": "random"}, "until": "dawn"}, r"^until must be one of .*, got 'dawn'"),
        (
            "compare",
            {"policies": {"a": "random"}, "reference": "b"},
            r"^reference must name one of policies = \['a'\], got b",
        ),
        (
            "compare",
            {"policies": {"a": "random"}, "until": "decided"},
            "^policies must have at least one besides the ref",
        ),
        ("compare", {"policies": {"a": "random"}, "margin": 0.0}, r"^margin must be a number above 0"),
        ("load_policy", {"env": "CartPole-v1"}, r"env must come from ilt\.make_env, got 'CartPole-v1'"),
        (
            "evaluate",
            {"policy": "outputs/runs/it"},
            "policy must be a policy, an expert or a run, got",
        ),
    ],
)
def test_errors_name_the_wrong_argument(
    function: str, arguments: dict[str, Any], message: str, demos: ilt.Demonstrations, tmp_path: Path
) -> None:
    given = {"make_env": {}, "load_expert": {"env": ENV, "outputs": tmp_path}}
    given |= {"train": {"demos": demos, **given["load_expert"]}, "load_policy": {"where": "random"}}
    given |= {"evaluate": {"env": ENV}, "compare": {"env": ENV}}
    with pytest.raises(ilt.ConfigError, match=message):
        getattr(ilt, function)(**{**given[function], **arguments})


def test_an_option_of_conf_names_an_environment() -> None:
    assert ilt.make_env("lunar_lander_blind").wrappers


def test_wrappers_are_a_list_or_named_as_in_a_config() -> None:
    hide = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1, 3]}
    made = [ilt.make_env("CartPole-v1", wrappers=wrappers) for wrappers in ([hide], {"hide": hide})]
    assert [env.observations.space.shape for env in made] == [(2,), (2,)]
    assert made[0].identity() == made[1].identity()


def test_every_public_name_exists_and_is_imported_lazily() -> None:
    assert {"Demonstrations", "Episodes", "Policy", "check_env", "train", "__version__"} <= set(dir(ilt))
    assert all(getattr(ilt, name) is not None for name in dir(ilt))
    with pytest.raises(AttributeError, match="module 'ilt' has no attribute 'trian'"):
        ilt.trian  # noqa: B018
    code = "import sys, ilt; print({'torch', 'gymnasium', 'numpy', 'hydra'} & {*sys.modules}, 'train' in dir(ilt))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set() True\n"
