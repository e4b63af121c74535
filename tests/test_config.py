"""Every option composes and can be built, every key has a rule, and every wrong value is refused by its key."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.utils import get_method, instantiate
from ilt.config import (
    BOOLEAN,
    COUNT,
    FRACTION,
    NOT_OF_THE_RUN,
    PROBABILITY,
    RULES,
    TEXT,
    ConfigError,
    check_config,
    config_hash,
    integer,
    list_of,
    number,
    one_of,
    parse_seeds,
    run_config,
)
from omegaconf import DictConfig, OmegaConf
from stable_baselines3 import PPO

from ilt.cli.collect import filter_episodes
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset, take_episodes
from ilt.envs.spec import EnvSpec
from ilt.experts.a2c import A2C
from ilt.models.decoder import Decoder
from ilt.training.module import ImitationModule

CONF = Path(__file__).parent.parent / "conf"
ENTRY_POINTS = ("train", "expert", "collect", "evaluate", "probe", "report", "compare", "sync", "dashboard")
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.rglob("*.yaml") if path.parent != CONF
)
FORCED = {
    "train": ["run_name=name"],
    "evaluate": ["run=folder"],
    "probe": ["run=folder"],
    "report": ["runs=folder"],
    "compare": ["name=name", "policies={student: folder}"],
}
"""Keys without a default, and the one whose default asks Hydra which options were chosen."""


def composed(entry_point: str = "train", *overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(entry_point, [*FORCED.get(entry_point, []), *overrides])


@pytest.fixture(scope="module")
def base() -> DictConfig:
    """The main job's config with its defaults; a test changes a copy."""
    return composed()


def choose(group: str, option: str) -> DictConfig:
    """The main config with this option, whether or not it has the group by default."""
    names = {name for entry in OmegaConf.load(CONF / "train.yaml").defaults if entry != "base" for name in entry}
    return composed("train", f"{'' if group in names or group.startswith('hydra/') else '+'}{group}={option}")


def options_of(group: str) -> list[str]:
    return [option for name, option in OPTIONS if name == group]


# --- every option ---


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_into_a_config_that_is_allowed(group: str, option: str) -> None:
    check_config(choose(group, option))


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_entry_point_has_a_config_that_is_allowed(entry_point: str) -> None:
    check_config(composed(entry_point))


def test_every_entry_point_of_the_folder_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {*ENTRY_POINTS, "base"}


def test_groups_hold_the_options_that_one_would_look_for() -> None:
    assert {"nano", "tiny", "small", "base"} <= set(options_of("model"))
    assert {"ppo", "a2c", "heuristic", "random"} <= set(options_of("expert"))
    assert {"cpu", "gpu", "smoke"} <= set(options_of("trainer"))
    assert {"wandb", "tensorboard", "mlflow", "csv", "none"} == set(options_of("logger"))


@pytest.mark.parametrize("option", options_of("env"))
def test_every_env_can_be_made(option: str) -> None:
    spec = instantiate(choose("env", option).env, _convert_="object")
    assert isinstance(spec, EnvSpec)
    observation_dim, n_actions = spec.sizes()
    assert observation_dim >= 1
    assert n_actions >= 2
    assert isinstance(spec.kwargs, dict)


@pytest.mark.parametrize("option", options_of("model"))
def test_every_model_can_be_made(option: str) -> None:
    cfg = choose("model", option)
    sizes = {"observation_dim": 8, "n_actions": 4, "context_length": cfg.dataset.context_length}
    model = instantiate(cfg.model, **sizes, tokens=cfg.dataset.tokens)
    logits = model(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64))
    assert logits.shape == (2, 3, 4)


@pytest.mark.parametrize("option", options_of("model"))
def test_every_model_names_every_option_of_its_own(option: str) -> None:
    known_by_the_run = {"observation_dim", "n_actions", "context_length", "tokens"}
    of_the_model = set(inspect.signature(Decoder).parameters) - known_by_the_run
    assert set(choose("model", option).model) == {"_target_", *of_the_model}


@pytest.mark.parametrize("option", options_of("expert"))
def test_every_trained_expert_names_hyperparameters_that_its_trainer_takes(option: str) -> None:
    training = choose("expert", option).expert.training
    if training is None:
        return
    train = get_method(training._target_)
    given = set(training) - {"_target_"}
    known_by_the_run = {"spec", "seed", "folder", "score", "report"}
    own = {name for name, parameter in inspect.signature(train).parameters.items() if parameter.kind != 4}
    takes_the_rest = {"train_ppo": PPO, "train_a2c": A2C}[train.__name__]
    assert given - own <= set(inspect.signature(takes_the_rest).parameters)
    required = {n for n, p in inspect.signature(train).parameters.items() if p.default is p.empty and p.kind != 4}
    assert required <= given | known_by_the_run


@pytest.mark.parametrize("option", options_of("dataset"))
def test_every_dataset_can_be_made(option: str, two_episodes: Episodes) -> None:
    dataset = choose("dataset", option).dataset
    windows = WindowDataset(two_episodes, context_length=dataset.context_length, stride=dataset.stride)
    assert len(windows) >= 2
    assert len(take_episodes(two_episodes, dataset.episodes)) >= 1


@pytest.mark.parametrize("option", options_of("demos"))
def test_every_filter_is_one_that_there_is(option: str, two_episodes: Episodes) -> None:
    kept, _ = filter_episodes(two_episodes, **choose("demos", option).demos.filters)
    assert len(kept) <= 2


@pytest.mark.parametrize("option", options_of("optimizer"))
def test_every_optimizer_can_be_made(option: str) -> None:
    optimizer = OmegaConf.to_object(choose("optimizer", option).optimizer)
    ImitationModule(torch.nn.Linear(2, 2), seed=0, **optimizer)


@pytest.mark.parametrize("option", options_of("callbacks"))
def test_every_callback_can_be_made(option: str, lander: EnvSpec, tmp_path: Path) -> None:
    of_the_run: dict[str, Any] = {"rollout": {"spec": lander, "n_envs": 2}, "preemption": {"dirpath": str(tmp_path)}}
    for name, callback in choose("callbacks", option).callbacks.items():
        made = instantiate(callback, _partial_=True)(**of_the_run.get(str(name), {}))
        assert isinstance(made, pl.Callback), name


@pytest.mark.parametrize("option", options_of("trainer"))
def test_every_trainer_can_be_made(option: str, tmp_path: Path) -> None:
    trainer = choose("trainer", option).trainer
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    made = instantiate(trainer, logger=False, enable_checkpointing=False, default_root_dir=str(tmp_path))
    assert made.max_steps == trainer.max_steps


# --- every key ---

EXEMPT = (
    r".*_target_",  # names code, not a value
    r"env\.kwargs\..*",  # whatever the environment takes
    r"env\.wrappers\..*",  # the wrappers check these
    r"policies\..*",  # under names of the user's choice
    r"callbacks\.\w+\.(monitor|mode|filename|save_last|enable_version_counter)",  # Lightning's, and not for sweeps
    r"logger(\..*)?",  # Lightning's
    r"search\.space\..*",  # sweeps over keys that have rules of their own
)


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all that is no mapping; an empty mapping is a leaf as well."""
    for key in node:
        name = f"{prefix}{key}"
        child = None if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) else node[key]
        if isinstance(child, DictConfig) and len(child):
            yield from leaves(child, f"{name}.")
        else:
            yield name


def without_a_rule(cfg: DictConfig) -> list[str]:
    groups = {key.rsplit(".", 1)[0] for key in RULES}  # `expert.training: null` is a group that is not there
    exempt = [name for name in leaves(cfg) if any(re.fullmatch(pattern, name) for pattern in EXEMPT)]
    return [name for name in leaves(cfg) if name not in RULES and name not in exempt and name not in groups]


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_key_of_every_entry_point_has_a_rule(entry_point: str) -> None:
    assert without_a_rule(composed(entry_point)) == []


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_of_every_option_has_a_rule(group: str, option: str) -> None:
    assert [key for key in without_a_rule(choose(group, option)) if not key.startswith("hydra.")] == []


def test_every_rule_is_about_a_key_that_there_is() -> None:
    configs = [composed(entry_point) for entry_point in ENTRY_POINTS]
    configs += [choose("expert", option) for option in options_of("expert")]
    configs += [composed("train", "sweep=optuna", "search.space=null"), choose("imitation", "dagger")]
    configs += [OmegaConf.load(CONF / "compare.yaml")]  # where `policies` is not given yet
    assert set(RULES) <= {name for cfg in configs for name in leaves(cfg)}


# --- wrong values ---


def changed(base: DictConfig, **values: Any) -> DictConfig:
    """A copy of the config with these keys set; dots are written as double underscores."""
    cfg = base.copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
    return cfg


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("seed", -1, "an integer of at least 0"),
        ("seed", 1.5, "an integer of at least 0"),
        ("seed", None, "an integer of at least 0"),
        ("outputs", "", "text"),
        ("resume", "yes", "true or false"),
        ("resume", 1, "true or false"),
        ("n_envs", 0, "an integer of at least 1"),
        ("threads", 0, "an integer of at least 1, or null"),
        ("processes", 0, "an integer of at least 1, or null"),
        ("env.id", 3, "text"),
        ("env.kwargs", "windy", "a mapping"),
        ("env.kwargs", None, "a mapping"),
        ("env.success_return", "high", "a number"),
        ("env.success_return", float("nan"), "a number"),
        ("env.seed_blocks.test", [0], "a list of 2 values, each an integer of at least 0"),
        ("env.seed_blocks.test", [-1, 5], "a list of 2 values, each an integer of at least 0"),
        ("env.seed_blocks.test", 7, "a list of 2 values, each an integer of at least 0"),
        ("expert.policy", "oracle", "one of ['actor', 'heuristic', 'random']"),
        ("expert.gate", "none", "a number, or null"),
        ("expert.seed", -3, "an integer of at least 0"),
        ("expert.training.gamma", 1.5, "a number at least 0 and at most 1"),
        ("expert.training.hidden", 64, "a list of an integer of at least 1"),
        ("expert.training.hidden", [64, 0], "a list of an integer of at least 1"),
        ("demos.n_episodes", 0, "an integer of at least 1"),
        ("demos.n_episodes", 10.0, "an integer of at least 1"),
        ("demos.filters.min_return", "200", "a number, or null"),
        ("demos.filters.drop_truncated", None, "true or false"),
        ("dataset.context_length", 0, "an integer of at least 1"),
        ("dataset.context_length", True, "an integer of at least 1"),
        ("dataset.context_length", 8.0, "an integer of at least 1"),
        ("dataset.context_length", "8", "an integer of at least 1"),
        ("dataset.context_length", None, "an integer of at least 1"),
        ("dataset.stride", 0, "an integer of at least 1"),
        ("dataset.tokens", "actions", "one of ['states_actions', 'states']"),
        ("dataset.tokens", None, "one of ['states_actions', 'states']"),
        ("dataset.episodes", 0, "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.episodes", 0.0, "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.episodes", 1.5, "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.episodes", -0.5, "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.episodes", True, "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.episodes", "all", "a number of episodes (an integer of at least 1) or a fraction"),
        ("dataset.batch_size", -1, "an integer of at least 1"),
        ("model.n_layer", 0, "an integer of at least 1"),
        ("model.n_head", 0, "an integer of at least 1"),
        ("model.dropout", 1.0, "a number at least 0 and below 1"),
        ("model.dropout", -0.1, "a number at least 0 and below 1"),
        ("model.positions", "sinusoidal", "one of ['rotary', 'learned', 'none']"),
        ("model.positions", None, "one of ['rotary', 'learned', 'none']"),
        ("model.action_dropout", 1.1, "a number at least 0 and at most 1"),
        ("optimizer.learning_rate", 0, "a number above 0"),
        ("optimizer.learning_rate", True, "a number above 0"),
        ("optimizer.learning_rate", "1e-3", "a number above 0"),
        ("optimizer.learning_rate", float("inf"), "a number above 0"),
        ("optimizer.betas", [0.9], "a list of 2 values, each a number at least 0 and below 1"),
        ("optimizer.betas", [0.9, 1.0], "a list of 2 values, each a number at least 0 and below 1"),
        ("optimizer.weight_decay", -0.1, "a number at least 0"),
        ("optimizer.warmup_fraction", 1.0, "a number at least 0 and below 1"),
        ("trainer.accelerator", "tpu", "one of ['auto', 'cpu', 'gpu']"),
        ("trainer.devices", 0, "an integer of at least 1, or auto (all GPUs)"),
        ("trainer.devices", "all", "an integer of at least 1, or auto (all GPUs)"),
        ("trainer.max_steps", -2, "an integer of at least -1"),
        ("trainer.val_check_interval", 0, "an integer of at least 1 (steps), or 1.0"),
        ("trainer.val_check_interval", 0.5, "an integer of at least 1 (steps), or 1.0"),
        ("trainer.gradient_clip_val", 0, "a number above 0, or null"),
        ("callbacks.rollout.n_episodes", 0, "an integer of at least 1"),
        ("callbacks.ema.decay", 1.0, "a number at least 0 and below 1"),
        ("evaluation.n_episodes", 0, "an integer of at least 1"),
        ("evaluation.reported_checkpoint", "final", "one of ['last', 'best']"),
        ("evaluation.context_length", 0, "an integer of at least 1, or null"),
        ("evaluation.video", "no", "true or false"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(base: DictConfig, key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_config(changed(base, **{key: value}))
    message = str(refusal.value)
    assert message.startswith(f"{key} must be {wanted}")
    assert message.endswith(f", got {OmegaConf.create([value])[0]!r}")


@pytest.mark.parametrize(
    ("entry_point", "key", "value", "wanted"),
    [
        ("evaluate", "checkpoint", "final", "one of ['last', 'best'], or null"),
        ("evaluate", "context_length", 0, "an integer of at least 1, or null"),
        ("evaluate", "deterministic", "sure", "true or false"),
        ("evaluate", "seeds", 1000, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000"),
        ("evaluate", "run", "", "the folder of a finished run, such as outputs/runs/NAME"),
        ("probe", "other", "", "text, or null"),
        ("probe", "fit_seeds", 1000, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000"),
        ("probe", "steps", [1, -1], "a list of an integer of at least 0"),
        ("report", "runs", "", "a folder that holds finished runs, such as outputs/multirun/NAME"),
        ("report", "example", "", "text, or null"),
        ("report", "videos", "some", "true or false"),
        ("compare", "policies", {}, "a mapping from names to policies, such as +policies.student=outputs/runs/NAME"),
        ("compare", "subsets", {"windy": 3}, RULES["subsets"].wanted),
        ("compare", "video", "student", "a list of a name of letters, digits, _ and -, or null"),
        ("compare", "reference", "the expert", "a name of letters, digits, _ and -, or null"),
        ("collect", "demos.n_validation_episodes", 0, "an integer of at least 1"),
        ("expert", "expert.gate_episodes", 0, "an integer of at least 1"),
    ],
)
def test_other_entry_points_refuse_wrong_values_as_well(entry_point: str, key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{key} must be {wanted}, got {value!r}")):
        check_config(changed(composed(entry_point), **{key: value}))


BY_EPOCHS = {"trainer__max_steps": -1, "trainer__val_check_interval": 1.0, "trainer__check_val_every_n_epoch": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model__d_model": 30, "model__n_head": 4}, "model.d_model must be divisible by model.n_head = 4, got 30"),
        (
            {"model__d_model": 12, "model__n_head": 4},
            "model.d_model / model.n_head must be even for model.positions=rotary, got 3",
        ),
        (
            {"dataset__context_length": 4, "dataset__stride": 5},
            "dataset.stride must be at most dataset.context_length = 4, or steps would be skipped, got 5",
        ),
        (
            {"demos__n_episodes": 1000, "dataset__episodes": 2000},
            "dataset.episodes must be at most demos.n_episodes = 1000, got 2000",
        ),
        (
            {"dataset__context_length": 4, "evaluation__context_length": 5},
            "evaluation.context_length must be at most dataset.context_length = 4, got 5",
        ),
        (
            {"env__seed_blocks__demonstrations": [0, 10], "demos__n_episodes": 11},
            "demos.n_episodes must be at most 10, the seeds that env.seed_blocks.demonstrations holds, got 11",
        ),
        (
            {"env__seed_blocks__validation": [10_000_000, 3], "demos__n_validation_episodes": 4},
            "demos.n_validation_episodes must be at most 3, the seeds that env.seed_blocks.validation holds, got 4",
        ),
        (
            {"env__seed_blocks__test": [30_000_000, 5], "evaluation__n_episodes": 6},
            "evaluation.n_episodes must be at most 5, the seeds that env.seed_blocks.test holds, got 6",
        ),
        (
            {"env__seed_blocks__selection": [20_000_000, 20], "callbacks__rollout__n_episodes": 21},
            "callbacks.rollout.n_episodes must be at most 20, the seeds that env.seed_blocks.selection holds, got 21",
        ),
        (
            {
                "env__seed_blocks__selection": [20_000_000, 200],
                "expert__selection_episodes": 150,
                "expert__gate_episodes": 51,
            },
            "expert.selection_episodes + expert.gate_episodes must be at most 200, the seeds that "
            "env.seed_blocks.selection holds, got 201",
        ),
        (
            {"env__seed_blocks__demonstrations": [0, 100], "env__seed_blocks__validation": [99, 100]},
            "demonstrations and validation overlap: validation must begin at 100 or later, got 99",
        ),
        (
            {"env__seed_blocks__test": [20_000_000, 1_000_000]},
            "selection and test overlap: test must begin at 21000000 or later, got 20000000",
        ),
        (
            {"trainer__devices": 3, "dataset__batch_size": 256},
            "dataset.batch_size must be divisible by trainer.devices = 3 (of all machines), which share each batch",
        ),
        (
            {"trainer__max_steps": 1050, "trainer__val_check_interval": 100},
            "trainer.max_steps must be a positive multiple of trainer.val_check_interval = 100, so that training ends "
            "on a rollout evaluation, got 1050",
        ),
        (
            {"trainer__max_steps": 0, "trainer__val_check_interval": 100},
            "trainer.max_steps must be a positive multiple of trainer.val_check_interval = 100",
        ),
        (
            {"trainer__max_steps": -1, "trainer__val_check_interval": 100},
            "trainer.max_steps must be a positive multiple of trainer.val_check_interval = 100",
        ),
        (
            {"trainer__val_check_interval": 1.0},
            "trainer.val_check_interval must be a number of steps where trainer.check_val_every_n_epoch is null, "
            "got 1.0",
        ),
        (
            {**BY_EPOCHS, "trainer__max_epochs": 5, "trainer__check_val_every_n_epoch": 2},
            "trainer.max_epochs must be a positive multiple of trainer.check_val_every_n_epoch = 2, so that training "
            "ends on a rollout evaluation, got 5",
        ),
        (
            {**BY_EPOCHS, "trainer__max_epochs": 5, "trainer__val_check_interval": True},
            "trainer.val_check_interval must be",
        ),
        (
            {**BY_EPOCHS, "trainer__max_epochs": -1},
            "trainer.max_epochs must be a positive multiple of trainer.check_val_every_n_epoch = 1",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_values_that_do_not_go_together_are_refused(base: DictConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(changed(base, **values))


def test_there_is_at_least_one_machine() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes must be an integer of at least 1, got 0"):
        check_config(composed("train", "trainer=ddp", "+trainer.num_nodes=0"))


def test_rounds_are_learned_from_by_one_machine() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes must be 1 for imitation=dagger, got 2"):
        check_config(composed("train", "imitation=dagger", "+trainer.num_nodes=2"))


@pytest.mark.parametrize(
    "values",
    [
        {"dataset__episodes": 1},
        {"dataset__episodes": 0.05},
        {"dataset__episodes": 1.0},
        {"dataset__context_length": 4, "dataset__stride": 4},
        {"dataset__context_length": 4, "evaluation__context_length": 4},
        {"dataset__context_length": 1, "dataset__tokens": "states"},
        {"model__positions": "none", "model__d_model": 12, "model__n_head": 4},
        {"model__action_dropout": 1.0},
        {"optimizer__learning_rate": 1},
        {"callbacks__ema": None},
        {"callbacks__rollout__n_episodes": 1},
        {"env__kwargs": {"gravity": -8.0, "enable_wind": True}},
        {"env__seed_blocks__validation": [0, 5_000_000], "env__seed_blocks__demonstrations": [5_000_000, 5_000_000]},
        {"expert__gate": None},
        {"threads": 1},
        {**BY_EPOCHS, "trainer__max_epochs": 6, "trainer__check_val_every_n_epoch": 2},
    ],
    ids=str,
)
def test_what_makes_sense_is_allowed(base: DictConfig, values: dict[str, Any]) -> None:
    check_config(changed(base, **{"demos__n_validation_episodes": 100, **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search__seeds": [0, 1]}, "search.seeds must be at least 3 different seeds, got [0, 1]"),
        ({"search__seeds": [0, 1, 1]}, "search.seeds must be at least 3 different seeds, got [0, 1, 1]"),
        ({"search__fresh_seeds": [2, 3]}, "search.fresh_seeds must be different seeds, none of search.seeds"),
        ({"search__fresh_seeds": [3, 3]}, "search.fresh_seeds must be different seeds, none of search.seeds"),
        ({"search__fresh_seeds": []}, "search.fresh_seeds must be different seeds, none of search.seeds"),
        ({"search__sampler": "grid"}, "search.sampler must be one of ['tpe', 'random'], got 'grid'"),
        ({"search__n_trials": 0}, "search.n_trials must be an integer of at least 1, got 0"),
    ],
)
def test_a_search_by_too_few_or_the_same_seeds_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(changed(choose("sweep", "optuna"), **values))


@pytest.mark.parametrize(
    ("way", "values", "message"),
    [
        (
            "clone",
            {"imitation__rounds": 2},
            "imitation.rounds must be 0 and imitation.initial_fraction 1.0 for imitation=clone, got 2 and 1.0; "
            "imitation=dart and imitation=dagger have rounds",
        ),
        ("clone", {"imitation__initial_fraction": 0.5}, "initial_fraction 1.0 for imitation=clone, got 0 and 0.5"),
        ("dart", {"imitation__rounds": 0}, "imitation.rounds must be at least 1"),
        (
            "dart",
            {"imitation__initial_fraction": 0},
            "imitation.initial_fraction must be a number above 0 and at most 1, got 0",
        ),
        (
            "dagger",
            {"imitation__initial_fraction": 1.0},
            "initial_fraction below 1 for imitation=dagger, got 3 and 1.0",
        ),
        (
            "dagger",
            {"imitation__beta": 1.1},
            "imitation.beta must be a number at least 0 and at most 1",
        ),
        ("dagger", {"imitation__name": "clones"}, "imitation.name must be one of ['clone', 'dart', 'dagger']"),
        ("dagger", {"trainer__devices": 2}, "trainer.devices must be 1 for imitation=dagger, got 2"),
        ("dart", {"trainer__devices": "auto"}, "trainer.devices must be 1 for imitation=dart, got auto"),
        (
            "dart",
            {**BY_EPOCHS, "trainer__max_epochs": 4},
            "trainer.check_val_every_n_epoch must be null for imitation=dart, whose rounds begin at training steps",
        ),
        (
            "dagger",
            {"imitation__rounds": 2},
            "trainer.max_steps must be a multiple of (imitation.rounds + 1) · trainer.val_check_interval = 1500, "
            "so that rounds begin at evaluations, got 2000",
        ),
    ],
)
def test_rounds_that_cannot_be_are_refused(way: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(changed(choose("imitation", way), **values))


@pytest.mark.parametrize("way", ["clone", "dart"])
def test_only_dagger_mixes(way: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("imitation.beta is only for imitation=dagger")):
        check_config(composed("train", f"imitation={way}", "+imitation.beta=0.0"))


@pytest.mark.parametrize("key", ["name", "rounds", "initial_fraction", "beta"])
def test_a_way_of_imitating_without_one_of_its_keys_is_refused(key: str) -> None:
    cfg = choose("imitation", "dagger")
    OmegaConf.set_struct(cfg, False)
    del cfg.imitation[key]
    with pytest.raises(ConfigError, match=rf"imitation\.{key} is missing"):
        check_config(cfg)


def test_how_it_was_searched_for_is_not_part_of_a_run(base: DictConfig) -> None:
    searched = choose("sweep", "optuna")
    assert run_hash(searched) == run_hash(base)
    assert searched.search.study_name == f"search-{run_hash(base)}"


def test_a_training_that_counts_epochs_may_not_be_cut_between_evaluations(base: DictConfig) -> None:
    cfg = changed(base, **{**BY_EPOCHS, "trainer__max_epochs": 4, "trainer__max_steps": 1000})
    with pytest.raises(ConfigError, match=r"trainer\.max_steps"):
        check_config(cfg)


def test_a_training_that_counts_steps_may_not_be_cut_between_evaluations(base: DictConfig) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs"):
        check_config(changed(base, trainer__max_epochs=3))


def test_a_training_that_evaluates_by_epochs_does_so_at_their_end(base: DictConfig) -> None:
    cfg = changed(base, **{**BY_EPOCHS, "trainer__max_epochs": 4, "trainer__val_check_interval": 100})
    with pytest.raises(ConfigError, match=r"trainer\.val_check_interval"):
        check_config(cfg)


# --- what Hydra refuses ---


def test_an_unknown_option_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(MissingConfigException, match=r"(?s)model/huge.*base.*nano.*small.*tiny"):
        composed("train", "model=huge")


@pytest.mark.parametrize("override", ["datset.context_length=3", "dataset.contextlength=3", "model.n_heads=2"])
def test_an_unknown_key_is_refused_by_its_name(override: str) -> None:
    key = override.split("=")[0]
    with pytest.raises(ConfigCompositionException, match=re.escape(f"Could not override '{key}'")):
        composed("train", override)


def test_an_unknown_group_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override 'modle'"):
        composed("train", "modle=tiny")


@pytest.mark.parametrize(("entry_point", "key"), [("evaluate", "run"), ("probe", "run"), ("report", "runs")])
def test_a_forced_choice_is_named(entry_point: str, key: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose(entry_point)
    assert OmegaConf.missing_keys(cfg) == {key}


# --- names and hashes ---


def test_the_name_of_a_run_tells_its_main_choices() -> None:
    choices = ["model=nano", "expert=a2c", "seed=7", "dataset.context_length=5"]
    before = HydraConfig.instance().cfg
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", choices, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        name = cfg.run_name
        check_config(cfg)
    finally:
        HydraConfig.instance().cfg = before
    assert re.fullmatch(r"nano-K5-a2c-s7-[0-9a-f]{10}", name)
    assert name.endswith(config_hash(run_config(cfg)))


def run_hash(cfg: DictConfig) -> str:
    """What `${run_hash:}` gives in this config."""
    return changed(cfg, run_name="${run_hash:}").run_name


def test_equal_configs_have_equal_hashes(base: DictConfig) -> None:
    assert run_hash(base) == run_hash(base.copy()) == run_hash(composed()) == config_hash(run_config(base))


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"dataset__context_length": 7},
        {"model__dropout": 0.05},
        {"expert__seed": 1},
        {"expert__training__gamma": 0.9},
        {"demos__filters__min_return": 200.0},
        {"env__kwargs": {"gravity": -8.0}},
        {"env__seed_blocks__test": [40_000_000, 1_000_000]},
        {"optimizer__betas": [0.9, 0.96]},
        {"trainer__precision": "64-true"},
        {"callbacks__ema": None},
        {"evaluation__n_episodes": 7},
    ],
    ids=str,
)
def test_whatever_changes_the_numbers_changes_the_hash(base: DictConfig, values: dict[str, Any]) -> None:
    assert run_hash(changed(base, **values)) != run_hash(base)


@pytest.mark.parametrize(
    "values",
    [
        {"outputs": "elsewhere"},
        {"resume": False},
        {"logger": {}},
        {"logger__tags": ["a"]},
        {"threads": 1},
        {"processes": 3},
    ],
    ids=str,
)
def test_whatever_leaves_the_numbers_as_they_are_leaves_the_hash(base: DictConfig, values: dict[str, Any]) -> None:
    assert run_hash(changed(base, **values)) == run_hash(base)


def test_the_config_of_a_run_is_plain_and_lacks_what_is_not_its_own(base: DictConfig) -> None:
    plain = run_config(base)
    assert set(plain) == set(base) - set(NOT_OF_THE_RUN)
    assert type(plain["optimizer"]["betas"]) is list
    assert type(plain["model"]) is dict


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert config_hash({"a": 1, "b": {"c": [1, 2], "d": None}}) == config_hash({"b": {"d": None, "c": [1, 2]}, "a": 1})


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": [1, 2, 3]}, {"b": [1, 2]}, {"a": ["1", "2"]}, {}])
def test_the_hash_depends_on_everything_else(other: dict[str, Any]) -> None:
    assert config_hash(other) != config_hash({"a": [1, 2]})


def test_the_hash_is_the_same_in_every_process_and_for_ever() -> None:
    # printf '{"a":1,"b":"\u00e9"}' | sha256sum, with é as the six characters \u00e9
    assert config_hash({"b": "é", "a": 1}) == "6071e7aa78"


# --- seeds ---

SEED_BLOCKS = {"test": [3000, 100], "selection": [2000, 10]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test:100", ("test", 0, 100)),
        ("test:1", ("test", 0, 1)),
        ("test:40:60", ("test", 40, 60)),
        ("test:99:1", ("test", 99, 1)),
        ("selection:10", ("selection", 0, 10)),
    ],
)
def test_seeds_are_a_block_an_offset_and_a_count(text: str, expected: tuple[str, int, int]) -> None:
    assert parse_seeds(text, SEED_BLOCKS) == expected


@pytest.mark.parametrize(
    "text", ["", "test", "100", "tests:10", "test:", "test:ten", "test:-1", "test:1.5", "test:1:2:3", "test::5", ":5"]
)
def test_seeds_of_another_form_are_refused(text: str) -> None:
    expected = "seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['selection', 'test'], such as test:1000"
    with pytest.raises(ConfigError, match=re.escape(f"{expected}, got {text!r}")):
        parse_seeds(text, SEED_BLOCKS)


@pytest.mark.parametrize("text", ["test:101", "test:1:100", "test:100:1", "test:0", "test:5:0"])
def test_seeds_beyond_their_block_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.seed_blocks\.test, which holds 100, got '{text}'"):
        parse_seeds(text, SEED_BLOCKS)


# --- rules ---


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "wanted"),
    [
        (integer(2), [2, 10**9], [1, 2.0, True, "2", None], "an integer of at least 2"),
        (integer(0, 1), [0, 1], [2, -1, False, True], "an integer from 0 to 1"),
        (number(), [0, -1.5, 3], [float("nan"), float("inf"), True, "1", None, [1]], "a number"),
        (number(0), [0, 0.0, 7], [-0.1], "a number at least 0"),
        (number(0, above=True), [0.1], [0, 0.0], "a number above 0"),
        (number(0, 1, above=True, below=True), [0.5], [0, 1], "a number above 0 and below 1"),
        (number(most=5), [5, -9], [5.1], "a number at most 5"),
        (FRACTION, [0, 1, 0.5], [1.01, -0.01, False], "a number at least 0 and at most 1"),
        (PROBABILITY, [0, 0.999], [1, 1.0], "a number at least 0 and below 1"),
        (COUNT, [1], [0, True, 1.0], "an integer of at least 1"),
        (COUNT.or_null(), [1, None], [0, ""], "an integer of at least 1, or null"),
        (one_of("a", "b"), ["a", "b"], ["c", "", None, 1], "one of ['a', 'b']"),
        (one_of(0, 1), [0, 1], [True, False, 1.0], "one of [0, 1]"),
        (list_of(COUNT), [[], [1, 2], OmegaConf.create([3])], [[0], 1, "12", None, (1,)], "a list of an integer"),
        (list_of(FRACTION, 2), [[0, 1]], [[0], [0, 1, 1], [0, 2]], "a list of 2 values, each a number"),
        (BOOLEAN, [True, False], [0, 1, "true", None], "true or false"),
        (TEXT, ["a"], ["", None, 1], "text"),
    ],
    ids=lambda value: "",
)
def test_rules_by_hand(rule: Any, allowed: list[Any], refused: list[Any], wanted: str) -> None:
    assert [value for value in allowed if not rule.allows(value)] == []
    assert [value for value in refused if rule.allows(value)] == []
    assert rule.wanted.startswith(wanted)


@pytest.mark.parametrize(
    "key", ["model.positions", "dataset.stride", "trainer.max_steps", "evaluation.reported_checkpoint"]
)
def test_a_missing_key_is_an_error_and_not_read_as_none(base: DictConfig, key: str) -> None:
    cfg = base.copy()
    OmegaConf.set_struct(cfg, False)
    group, name = key.split(".")
    del cfg[group][name]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        check_config(cfg)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modl": "small"}, "modl is not a key; did you mean model?"),
        ({"model": {"n_layers": 3}}, "model.n_layers is not a key; did you mean model.n_layer?"),
        ({"dataset": {"shuffle": True}}, "dataset.shuffle is not a key"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(base: DictConfig, values: dict[str, Any], message: str) -> None:
    cfg = base.copy()
    OmegaConf.set_struct(cfg, False)
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(OmegaConf.merge(cfg, values))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rollout", "curve", "best", "last"])
def test_callbacks_that_results_are_made_from_must_be_there(base: DictConfig, name: str) -> None:
    cfg = base.copy()
    cfg.callbacks[name] = None
    with pytest.raises(ConfigError, match=f"callbacks.{name} must be there"):
        check_config(cfg)


def test_a_value_that_must_be_given_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="run must be given; it must be the folder of a finished run"):
        check_config(OmegaConf.create({"run": "???"}))
