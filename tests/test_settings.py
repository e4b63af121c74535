"""Config checks that run before heavy imports: errors about the environment, and hints about likely mistakes."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.machine import check_environment
from ilt.registry import load_option
from ilt.schema import ConfigError
from ilt.settings import check_config, hints, training_hash


def checked(*overrides: str) -> DictConfig:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose("train", ["run_name=name", *overrides])
    check_config(cfg, "train")
    return cfg


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.id=Nothing-v0"], "env.id must be an environment that Gymnasium knows, got Nothing-v0"),
        (["env.id=nowhere:Task-v0"], "env.id=nowhere:Task-v0: nowhere cannot be imported"),
        (["+env.kwargs.gravityy=-5"], r"env.kwargs must be arguments of LunarLander-v3, got .*gravityy"),
        (["env=gymnasium", "env.id=Blackjack-v1"], None),
        (["head=mse"], "head=mse is for Box actions; head=categorical is for Discrete and MultiDiscrete"),
        (["env=gymnasium", "env.id=Pendulum-v1", "head=categorical"], "head=categorical is for Discrete .* is for Box"),
        (["expert=sb3", "expert.path=nowhere.zip"], "expert.path must be a file, got nowhere.zip"),
        (["expert=sb3", f"expert.path={__file__}"], "expert.path must be a file that can be read, .* not a zip file"),
        (["expert=heuristic", "env.heuristic=os.sep"], "env.heuristic must be a function from observations"),
        (["expert=heuristic", "env.heuristic=nowhere.fly"], "env.heuristic must be the dotted path of something"),
        (
            ["+env.kwargs.max_episode_steps=0"],
            "env.kwargs.max_episode_steps must be a number of steps, or -1",
        ),
        (["+env.kwargs.render_mode=human"], "env.kwargs.render_mode cannot be set: only videos render"),
        (["+env.wrappers.own._target_=os.getcwd"], "env.wrappers.own cannot wrap LunarLander-v3"),
    ],
)
def test_settings_that_do_not_suit_the_environment_are_refused(overrides: list[str], message: str | None) -> None:
    if message is None:
        check_environment(checked(*overrides))
    else:
        with pytest.raises(ConfigError, match=message):
            check_environment(checked(*overrides))


def test_a_zip_file_must_contain_the_expected_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", "{}")
    path = tmp_path / "other.zip"
    with pytest.raises(ConfigError, match=r"expert\.path must be a file that contains data, policy\.pth, .* without p"):
        check_environment(checked("expert=sb3", f"expert.path={path}"))
    with pytest.raises(ConfigError, match=r"demos\.path must be a file that contains observations\.npy, .* without a"):
        check_environment(checked("demos=file", f"demos.path={path}", f"demos.validation_path={path}"))


TOO_LARGE = """
dataset.context_length=1000000000: dataset.context_length=1000000000
dataset.batch_size=1000000000: dataset.batch_size=1000000000, dataset.context_length=8, model.d_model=32
model.d_model=100000000: model.d_model=100000000, model.n_layer=2
model.n_layer=1000000000: model.d_model=32, model.n_layer=1000000000
model=mlp model.n_layer=100000000: model.d_model=None, model.n_layer=100000000
model=gru model.d_model=100000000: model.d_model=100000000, model.n_layer=1
model=mlp_stack model.d_action=100000000000: dataset.context_length=8, model.d_action=100000000000
env=gymnasium env.id=Pendulum-v1 head=discretized head.n_bins=1000000000000: head=
expert.hidden=[1000000000000]: expert.hidden=[1000000000000]
expert.n_envs=1000000000: expert.n_envs=1000000000, expert.n_steps=1024
"""


@pytest.mark.parametrize(("overrides", "keys"), [line.split(": ") for line in TOO_LARGE.strip().splitlines()])
def test_settings_that_exceed_memory_are_refused_before_allocation(overrides: str, keys: str) -> None:
    wanted = rf"^{re.escape(keys)}.* must be smaller: at least [\d,]+ GB of memory are needed, and this machine has"
    with pytest.raises(ConfigError, match=wanted):
        check_environment(checked(*overrides.split()))


def test_the_environment_is_checked_before_torch_is_imported() -> None:
    code = """if True:
        import sys
        from tests.test_settings import checked, check_environment
        cfg = checked()
        check_environment(cfg)
        assert not {"torch", "pytorch_lightning", "stable_baselines3"} & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", code], check=True)


ALONE = ["env=none", "demos=minari", "demos.id=toys/echo-v0"]


@pytest.mark.parametrize(
    ("overrides", "choices", "hint"),
    [
        ([], {"env": "lunar_lander"}, None),
        (["env=lunar_lander_hidden"], {"env": "lunar_lander_hidden"}, None),
        (["env.id=CartPole-v1"], {"env": "lunar_lander"}, "env.id=CartPole-v1 keeps success_return=200.0, .*heuristic"),
        (["env.id=CartPole-v1"], {"env": "lunar_lander"}, "experiment=cartpole has settings that suit"),
        (["experiment=cartpole"], {"env": "gymnasium", "experiment": "cartpole"}, None),
        (
            [*ALONE, "callbacks.rollout.n_episodes=9"],
            {"env": "none"},
            "rollout.n_episodes=9 has no effect where",
        ),
        (ALONE, {"env": "none"}, None),
        (["env.id=CartPole-v1"], {"env": "my_own"}, "experiment=cartpole"),
        (["env.id=CartPole-v1", "env=gymnasium", "expert=sb3", "expert.path=model.zip"], {"env": "gymnasium"}, None),
    ],
)
def test_likely_mistakes_give_a_hint(overrides: list[str], choices: dict[str, str], hint: str | None) -> None:
    given = " ".join(hints(checked(*overrides), choices))
    if hint is None:
        assert given == ""
    else:
        assert re.search(hint, given)


@pytest.mark.parametrize("option", ["sb3", "function"])
def test_another_file_of_an_expert_is_another_run_and_a_moved_file_is_not(option: str, tmp_path: Path) -> None:
    def hash_of(name: str) -> str:
        function = "expert.function=tests.experts.test_base:above" if option == "function" else "expert.activation=relu"
        key = "+expert.threshold" if option == "function" else "expert.path"
        return training_hash(checked(f"expert={option}", function, f"{key}={tmp_path / name}"))

    (tmp_path / "model.zip").write_bytes(b"first")
    first = hash_of("model.zip")
    (tmp_path / "model.zip").write_bytes(b"second")
    second = hash_of("model.zip")
    (tmp_path / "model.zip").rename(tmp_path / "moved.zip")
    assert first != second == hash_of("moved.zip")


@pytest.mark.parametrize(
    ("expert", "name"),
    [
        ({"_target_": "my_package.controllers.steady"}, "steady"),
        ({"_target_": "my_package.steady", "name": "mine"}, "mine"),
        (load_option("expert", "ppo_keys"), "ppo"),
        (load_option("expert", "sb3") | {"path": "model.zip"}, "sb3"),
        (load_option("expert", "function") | {"function": "my_package.controllers:steady"}, "steady"),
    ],
)
def test_an_expert_without_a_name_is_named_after_its_class_or_function(expert: dict[str, object], name: str) -> None:
    cfg = OmegaConf.create({"expert": expert})
    check_config(cfg, "expert", partial=True)
    assert cfg.expert.name == name
