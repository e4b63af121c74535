"""Options compose and build, errors name the key, and run names and hashes depend on whatever decides the weights."""

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ilt import registry
from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.experts.find import find
from ilt.registry import GROUPS
from ilt.rollout.recorded import Context
from ilt.schema import COMPONENTS, ConfigError, config_hash, named, own_keys
from ilt.settings import NOT_OF_THE_RUN, check_config, parse_seeds, run_config, training_config, training_hash
from ilt.tracking.store import SHIPPED, Store
from ilt.training.config import NOT_OF_LIGHTNING
from ilt.training.fit import check_components, model_spec
from tests.test_plugin import CONF as PLUGIN_CONF
from tests.test_plugin import PLUGIN
from tests.test_schema import with_a_new_key, with_another

CONF = Path(__file__).parent.parent / "conf"
ENTRY_POINTS = sorted({path.stem for path in CONF.glob("*.yaml")} - {"base"})
FILES = {(path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/**/*.yaml")}
STORED = {(c.group, registry.stored_as(c)) for c in COMPONENTS if c.target and c.group in (*GROUPS, "logger")}
OPTIONS = sorted(FILES | STORED)
COMPONENT_OPTIONS = [option for option in OPTIONS if option[0] in (*GROUPS, "callbacks")]
FORCED = {
    "train": ["run_name=name"],
    "evaluate": ["run=folder"],
    "export-minari": ["id=name-v0"],
    "probe": ["run=folder"],
    "figures": ["run=folder"],
    "show": ["run=folder"],
    "report": ["runs=folder"],
    "compare": ["name=name", "policies={student: folder}"],
    "study": ["run_name=name", "study=zoo"],
}
"""Keys without a default, and the one whose default depends on the options chosen in Hydra."""
REQUIRED = {
    ("env", "gymnasium"): ["env.id=CartPole-v1"],
    ("env", "none"): ["demos=file", "demos.path=a.npz", "demos.validation_path=b.npz"],
    ("expert", "sb3"): ["expert.path=expert.zip"],
    ("expert", "saved"): ["expert.path=ppo-091d97b2b3"],
    ("expert", "function"): ["expert.function=tests.experts.test_base:above"],
    ("expert", "none"): ["demos=file", "demos.path=a.npz", "demos.validation_path=b.npz"],
    ("demos", "file"): ["demos.path=a.npz", "demos.validation_path=b.npz"],
    ("demos", "minari"): ["demos.id=toys/echo-v0"],
    ("demos", "mixed"): ["demos.parts={a: {expert: random, n_episodes: 2, n_validation_episodes: 1}}"],
}
REQUIRED |= {(group, f"{option}_keys"): keys for (group, option), keys in REQUIRED.items()}
"""Values that an option requires from the user."""


@functools.cache
def _composed(entry_point: str, *overrides: str) -> DictConfig:
    forced = [each for each in FORCED.get(entry_point, []) if not any(o.startswith("policies=") for o in overrides)]
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose(entry_point, [*forced, *overrides])


def composed(entry_point: str = "train", *overrides: str) -> DictConfig:
    return _composed(entry_point, *overrides).copy()


@pytest.fixture
def base() -> DictConfig:
    """Return the config of `ilt train` with its defaults."""
    return composed()


MAIN_DEFAULTS = OmegaConf.load(CONF / "train.yaml").defaults
GROUPS_OF_TRAIN = {name for each in MAIN_DEFAULTS if isinstance(each, DictConfig) for name in each}


def choose(group: str, option: str) -> DictConfig:
    """Return the main config with this option, even if the group is not in its defaults."""
    if group == "policies":
        return composed("compare", "name=name", f"policies={option}")
    if group == "study":
        return composed("study", f"study={option}")
    plus = "" if group in GROUPS_OF_TRAIN or group.startswith("hydra/") else "+"
    return composed("train", f"{plus}{group}={option}", *REQUIRED.get((group, option), []))


def changed(cfg: DictConfig, changes: str | dict[str, Any]) -> DictConfig:
    """Return a copy of the config with these keys set, given as a mapping or as text like `seed=1 model.n_layer=2`."""
    cfg = cfg.copy()
    if isinstance(changes, str):
        changes = {key: yaml.safe_load(value) for key, _, value in (w.partition("=") for w in changes.split())}
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


# --- every option ---


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_into_a_valid_config(group: str, option: str) -> None:
    check_config(choose(group, option), {"policies": "compare", "study": "study"}.get(group, "train"))


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_entry_point_has_a_valid_config(entry_point: str) -> None:
    check_config(composed(entry_point), entry_point)


def test_groups_offer_the_expected_options() -> None:
    wanted = {
        "model": {"nano", "tiny", "small", "base", "linear", "mlp", "mlp_stack", "gru", "lstm"},
        "expert": {"ppo", "a2c", "sb3", "saved", "function", "heuristic", "random"},
        "imitation": {"bc", "dagger", "dart"},
        "trainer": {"cpu", "gpu", "smoke"},
        "logger": {"wandb", "csv", "none"},
    }
    assert {(group, option) for group, options in wanted.items() for option in options} <= set(OPTIONS)


@pytest.mark.parametrize(("group", "option"), COMPONENT_OPTIONS)
def test_an_option_loads_the_same_without_hydra(group: str, option: str) -> None:
    keys = [override for override in REQUIRED.get((group, option), []) if override.startswith(f"{group}.")]
    required = OmegaConf.to_container(OmegaConf.from_dotlist(keys))
    loaded = registry.merge(registry.load_option(group, option), required.get(group, {}))
    assert loaded == OmegaConf.to_container(choose(group, option)[group], resolve=False)
    assert option in registry.options_of(group)


@pytest.mark.parametrize(("group", "option"), COMPONENT_OPTIONS)
def test_every_component_can_be_built(group: str, option: str, lander: EnvSpec, tmp_path: Path) -> None:
    cfg = choose(group, option)
    env = EnvSpec.from_config(cfg.env) if group == "env" else lander
    files = {("demos", "file"), ("demos", "minari"), ("env", "none"), ("expert", "none"), ("expert", "sb3")}
    if (group, option.removesuffix("_keys")) in files:
        pytest.skip("its files are checked")
    if (group == "head" and option not in ("auto", "categorical")) or option.startswith(("sac", "tqc")):
        env = EnvSpec(id="Pendulum-v1")
    ctx = Context(env, Store(tmp_path))
    check_components(ctx, cfg)
    assert make_expert(cfg.expert).total_steps == cfg.expert.get("total_steps", 0)
    if group == "model":
        model, head = model_spec(ctx, cfg).build()
        outputs = model(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool))
        assert outputs.shape == (2, 3, head.n_outputs)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "trainer"])
def test_every_trainer_can_be_built(option: str, tmp_path: Path) -> None:
    trainer = choose("trainer", option).trainer
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    quiet = {"logger": False, "enable_checkpointing": False, "default_root_dir": str(tmp_path)}
    options = {name: value for name, value in own_keys("trainer", trainer).items() if name not in NOT_OF_LIGHTNING}
    assert pl.Trainer(**options, **quiet).max_steps == trainer.max_steps


def test_config_errors_are_found_before_heavy_imports() -> None:
    heavy = {"numpy", "torch", "gymnasium", "pytorch_lightning", "stable_baselines3", "matplotlib", "optuna", "wandb"}
    loaded = f"atexit.register(lambda: print({heavy} & sys.modules.keys()))"
    program = [sys.executable, "-c", f"import atexit, sys; from ilt.cli.main import main; {loaded}; main()"]
    ended = subprocess.run([*program, "train", "model.n_layer=0"], capture_output=True, text=True, check=False)
    assert ended.stdout == "set()\n"
    assert ended.stderr == "model.n_layer must be an integer of at least 1, got 0\n"


OWN = ["env=cue", "model=my_gru", "expert=teacher", "demos=recordings", "imitation=random_start", "optimizer=adam"]


@pytest.mark.parametrize("options", [*([option] for option in OWN), OWN], ids=" ".join)
def test_a_user_option_needs_only_its_own_keys(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PLUGIN)
    cfg = composed("train", f"hydra.searchpath=[file://{PLUGIN_CONF}]", *options)
    before = training_hash(cfg)
    check_config(cfg)
    assert training_hash(cfg) == before
    assert cfg.env.seed_blocks.test[0] == 30_000_000
    assert cfg.expert.gate_episodes == 400
    assert cfg.demos.filters.min_return is None
    check_components(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg)
    make_expert(cfg.expert)


# --- wrong values ---

WRONG_VALUES = [
    ("seed", -1, "an integer from 0 to 4294967295"),
    ("seed", 1.5, "an integer from 0 to 4294967295"),
    ("seed", None, "an integer from 0 to 4294967295"),
    ("outputs", "", "text"),
    ("resume", "yes", "true or false"),
    ("resume", 1, "true or false"),
    ("n_envs", 0, "an integer of at least 1"),
    ("threads", 0, "an integer from 1 to 1024, or null"),
    ("run_name", "../../evil", "a folder name of at most 200 bytes that does not start with a dot and contains no /"),
    ("run_name", "..", "a folder name"),
    ("run_name", "ü" * 101, "a folder name of at most 200 bytes"),
    ("run_name", "two\nlines", "a folder name"),
    ("processes", 0, "an integer from 1 to 1024, or null"),
    ("env.id", 3, "text"),
    ("env.kwargs", "windy", "a mapping"),
    ("env.kwargs", None, "a mapping"),
    ("env.success_return", "high", "a number, or null"),
    ("env.success_return", float("nan"), "a number, or null"),
    ("env.seed_blocks.test", [0], "a list of 2 values, each an integer of at least 0"),
    ("env.seed_blocks.test", [-1, 5], "a list of 2 values, each an integer of at least 0"),
    ("env.seed_blocks.test", 7, "a list of 2 values, each an integer of at least 0"),
    ("expert._target_", 3, "the dotted path of something that can be imported"),
    ("expert.gate", "none", "a number, or null"),
    ("expert.seed", -3, "an integer from 0 to 4294967295"),
    ("expert.gamma", 1.5, "a number at least 0 and at most 1"),
    ("expert.hidden", 64, "a list of an integer of at least 1"),
    ("expert.hidden", [64, 0], "a list of an integer of at least 1"),
    ("demos.n_episodes", 0, "an integer of at least 1"),
    ("demos.n_episodes", 10.0, "an integer of at least 1"),
    ("demos.filters.min_return", "200", "a number, or null"),
    ("demos.filters.drop_truncated", None, "true or false"),
    ("demos.filters.top_fraction", 0, "a number above 0 and at most 1, or null"),
    ("dataset.context_length", 0, "an integer of at least 1"),
    ("dataset.context_length", True, "an integer of at least 1"),
    ("dataset.context_length", 8.0, "an integer of at least 1"),
    ("dataset.context_length", "8", "an integer of at least 1"),
    ("dataset.context_length", None, "an integer of at least 1"),
    ("dataset.stride", 0, "an integer of at least 1"),
    ("model.tokens", "actions", "one of ['states_actions', 'states']"),
    ("model.tokens", None, "one of ['states_actions', 'states']"),
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
    ("trainer.max_steps", -2, "an integer from -1 to 2147483647"),
    ("trainer.val_check_interval", 0, "an integer of at least 1 (steps), or 1.0"),
    ("trainer.val_check_interval", 0.5, "an integer of at least 1 (steps), or 1.0"),
    ("trainer.gradient_clip_val", 0, "a number above 0, or null"),
    ("callbacks.rollout.n_episodes", 0, "an integer of at least 1"),
    ("callbacks.ema.decay", 1.0, "a number at least 0 and below 1"),
    ("evaluation.n_episodes", 0, "an integer of at least 1"),
    ("evaluation.reported_checkpoint", "final", "one of ['last', 'best']"),
    ("evaluation.context_length", 0, "an integer of at least 1, or null"),
    ("evaluation.video", "no", "true or false"),
    ("seed", 2**32, "an integer from 0 to 4294967295"),
    ("expert.seed", 2**32, "an integer from 0 to 4294967295"),
    ("threads", 10**6, "an integer from 1 to 1024, or null"),
    ("processes", 10**6, "an integer from 1 to 1024, or null"),
    ("expert.total_steps", 1e6, "an integer from 1 to 2147483647"),
    ("trainer.max_steps", 10**20, "an integer from -1 to 2147483647"),
    ("trainer.num_nodes", 0, "an integer of at least 1"),
    ("trainer.precision", "16", "one of ['auto', '32-true', 'bf16-mixed', '16-mixed', '64-true']"),
    ("trainer.deterministic", "warn", "true or false, or null"),
    ("trainer.gradient_clip_algorithm", "sum", "one of ['norm', 'value'], or null"),
    ("demos.filters", None, "a mapping"),
    ("env.wrappers", 3, "a mapping"),
]
WRONG_VALUES_OF_OTHER_COMMANDS = [
    ("evaluate", "checkpoint", "final", "one of ['last', 'best'], or null"),
    ("evaluate", "context_length", 0, "an integer of at least 1, or null"),
    ("evaluate", "deterministic", "sure", "true or false"),
    ("evaluate", "seeds", 1000, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000"),
    ("evaluate", "run", "", "the folder of a finished run, such as outputs/runs/NAME"),
    ("probe", "other", "", "text, or null"),
    ("probe", "fit_seeds", 1000, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000"),
    ("probe", "steps", [1, -1], "a list of an integer of at least 0"),
    ("report", "runs", "", "a folder that contains finished runs, such as outputs/multirun/NAME"),
    ("report", "example", "", "text, or null"),
    ("report", "videos", "some", "true or false"),
    ("compare", "policies", {}, "a mapping from names to policies, such as +policies.student=outputs/runs/NAME"),
    ("compare", "subsets", {"windy": 3}, "a mapping from names to PARAMETER:LOW:HIGH, such as"),
    ("compare", "video", "student", "a list of a name of letters, digits, _ and -, or null"),
    ("compare", "reference", "the expert", "a name of letters, digits, _ and -, or null"),
    ("study", "only", "tiny", "a list of a sweep, a value or KEY:VALUE"),
    ("study", "study.metric", "loss", "one of ['performance', 'return', 'selection']"),
    ("study", "study.bar", "high", "a number, or null"),
    ("study", "study.sweeps", {}, "a mapping from names to overrides of ilt train"),
    ("study", "study.sweeps", {"one": {"seed": [0, 1]}}, "a mapping from names to overrides of ilt train"),
    ("study", "study.shared", 3, "overrides of ilt train"),
    ("collect", "demos.n_validation_episodes", 0, "an integer of at least 1"),
    ("expert", "expert.gate_episodes", 0, "an integer of at least 1"),
]


@pytest.mark.parametrize(
    ("command", "key", "value", "wanted"), [*(("train", *row) for row in WRONG_VALUES), *WRONG_VALUES_OF_OTHER_COMMANDS]
)
def test_errors_name_the_key_of_a_wrong_value(command: str, key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_config(changed(composed(command), {key: value}), command)
    message = str(refusal.value)
    assert message.startswith(f"{key} must be {wanted}")
    assert message.endswith(f", got {OmegaConf.create([value])[0]!r}")


BY_EPOCHS = "trainer.max_steps=-1 trainer.val_check_interval=1.0 trainer.check_val_every_n_epoch=1"
WRONG_TOGETHER = f"""
model.d_model=30 model.n_head=4: model.d_model must be divisible by model.n_head = 4, got 30
model.d_model=12 model.n_head=4: model.d_model / model.n_head must be even for model.positions=rotary, got 3
+modl=small: modl is not a key; did you mean model?
model.n_layers=3: model.n_layers is not a key; did you mean model.n_layer?
dataset.shuffle=true: dataset.shuffle is not a key
dataset.context_length=4 dataset.stride=5: dataset.stride must be at most dataset.context_length = 4,
  or steps would be skipped, got 5
dataset.episodes=2000 demos.n_episodes=1000: dataset.episodes must be at most demos.n_episodes = 1000, got 2000
dataset.context_length=4 evaluation.context_length=5: evaluation.context_length must be at most
  dataset.context_length = 4, got 5
env.seed_blocks.demonstrations=[0,10] demos.n_episodes=11: demos.n_episodes must be at most 10,
  the size of env.seed_blocks.demonstrations, got 11
env.seed_blocks.validation=[10_000_000,3] demos.n_validation_episodes=4: demos.n_validation_episodes must be at most 3,
  the size of env.seed_blocks.validation, got 4
env.seed_blocks.test=[30_000_000,5] evaluation.n_episodes=6: evaluation.n_episodes must be at most 5,
  the size of env.seed_blocks.test, got 6
env.seed_blocks.selection=[20_000_000,20] callbacks.rollout.n_episodes=21: callbacks.rollout.n_episodes must be
  at most 20, the size of env.seed_blocks.selection, got 21
env.seed_blocks.selection=[20_000_000,200] expert.selection_episodes=150 expert.gate_episodes=51:
  expert.selection_episodes + expert.gate_episodes must be at most 200,
  the size of env.seed_blocks.selection, got 201
env.seed_blocks.demonstrations=[0,100] env.seed_blocks.validation=[99,100]: env.seed_blocks must be
  disjoint, but demonstrations and validation overlap: validation must start at 100 or later, got 99
env.seed_blocks.test=[20_000_000,1_000_000]: env.seed_blocks must be disjoint, but selection and test overlap:
  test must start at 21000000 or later, got 20000000
env.seed_blocks.test=[9223372036854775800,1000]: env.seed_blocks.test must end below 2^63
env._target_=os.getcwd: env._target_ must be ilt.envs.spec.EnvSpec, with env.id naming your environment, got os.getcwd
env.trust=[x]: env.trust is not a key
expert=heuristic env.heuristic=null: env.heuristic must name a controller for expert=heuristic, got null
expert.n_steps=1 expert.n_envs=1: expert.n_steps · expert.n_envs must be at least 2, got 1 · 1
expert=a2c expert.n_steps=1 expert.n_envs=1: expert.n_steps · expert.n_envs must be at least 2, got 1 · 1
expert.foo=1: expert.foo is not a key
demos.filters.foo=1: demos.filters.foo is not a key
dataset.first_episode=3: dataset.first_episode must leave dataset.episodes = 1.0 of demos.n_episodes = 1000, got 3
dataset.episodes=1.0e-12: dataset.episodes must be at least half an episode of demos.n_episodes = 1000, got 1e-12
callbacks.rollout.foo=4: callbacks.rollout.foo is not a key
callbacks.last.filename=foo: callbacks.last.filename is not a key
callbacks.last.save_top_k=0: callbacks.last.save_top_k is not a key
callbacks.best.filename=foo: callbacks.best.filename is not a key
callbacks.best.mode=up: callbacks.best.mode is not a key
callbacks.best.monitor=nothing: callbacks.best.monitor is not a key
trainer.max_stepz=4: trainer.max_stepz is not a key; did you mean trainer.max_steps?
trainer.fast_dev_run=true: trainer.fast_dev_run cannot be set: a run needs its checkpoints
trainer.limit_val_batches=0: trainer.limit_val_batches cannot be set: training and validation use all windows
trainer.limit_train_batches=3: trainer.limit_train_batches cannot be set: training and validation use all windows
trainer.overfit_batches=1: trainer.overfit_batches cannot be set: training and validation data are different
trainer.num_sanity_val_steps=2: trainer.num_sanity_val_steps cannot be set: validation before the first step
trainer.max_time=00:00:01:00: trainer.max_time cannot be set: a run is finished at its last step; trainer.max_steps
trainer.min_steps=9: trainer.min_steps cannot be set: a run is finished at its last step; trainer.max_steps
trainer.strategy=ddp: trainer.strategy cannot be set: it follows from trainer.devices
trainer.logger=false: trainer.logger cannot be set: loggers have their own group, such as logger=csv
trainer.callbacks=[]: trainer.callbacks cannot be set: callbacks have their own group
trainer.plugins=[]: trainer.plugins cannot be set: they are objects, which a config cannot contain
trainer.default_root_dir=x: trainer.default_root_dir cannot be set: a run writes to its folder
trainer.accumulate_grad_batches=2: trainer.accumulate_grad_batches cannot be set: a resumed run finds its batches
trainer.precision=16-mixed: trainer.precision must be auto, 32-true, bf16-mixed or 64-true on a CPU, got 16-mixed
sweep=optuna search.seed=4294967296: search.seed must be an integer from 0 to 4294967295, got 4294967296
sweep=optuna search.seeds=[0,1,4294967296]: search.seeds must be a list of an integer from 0 to 4294967295
sweep=optuna search.fresh_seeds=[4294967296]: search.fresh_seeds must be a list of an integer from 0 to 4294967295
trainer.num_nodes=0: trainer.num_nodes must be an integer of at least 1, got 0
trainer.devices=3 dataset.batch_size=256: dataset.batch_size must be divisible by trainer.devices = 3
  (of all machines), which share each batch, got 256
trainer.max_steps=1050 trainer.val_check_interval=100: trainer.max_steps must be a positive multiple of
  trainer.val_check_interval = 100, so that training ends on a rollout evaluation, got 1050
trainer.max_steps=0 trainer.val_check_interval=100: trainer.max_steps must be a positive multiple of
  trainer.val_check_interval = 100
trainer.max_steps=-1 trainer.val_check_interval=100: trainer.max_steps must be a positive multiple of
  trainer.val_check_interval = 100
trainer.max_epochs=3: trainer.max_epochs must be -1 where trainer.check_val_every_n_epoch is null, got 3
trainer.val_check_interval=1.0: trainer.val_check_interval must be a number of steps
  where trainer.check_val_every_n_epoch is null, got 1.0
{BY_EPOCHS} trainer.max_epochs=5 trainer.check_val_every_n_epoch=2: trainer.max_epochs must be a positive multiple of
  trainer.check_val_every_n_epoch = 2, so that training ends on a rollout evaluation, got 5
{BY_EPOCHS} trainer.max_epochs=-1: trainer.max_epochs must be a positive multiple of
  trainer.check_val_every_n_epoch = 1
{BY_EPOCHS} trainer.max_epochs=4 trainer.max_steps=1000: trainer.max_steps must be -1
{BY_EPOCHS} trainer.max_epochs=4 trainer.val_check_interval=100: trainer.val_check_interval must be 1.0
{BY_EPOCHS} trainer.max_epochs=5 trainer.val_check_interval=true: trainer.val_check_interval must be
callbacks.rollout=null: callbacks.rollout must be set
callbacks.curve=null: callbacks.curve must be set
callbacks.best=null evaluation.reported_checkpoint=best: evaluation.reported_checkpoint must be last
callbacks.last=null: callbacks.last must be set
imitation=bc imitation.rounds=2: imitation.rounds is not a key
imitation=bc imitation.initial_fraction=0.5: imitation.initial_fraction is not a key
imitation=bc imitation.beta=0.0: imitation.beta is not a key
imitation=dart imitation.beta=0.0: imitation.beta is not a key
imitation=dart imitation.rounds=0: imitation.rounds must be an integer of at least 1, got 0
imitation=dart imitation.initial_fraction=0: imitation.initial_fraction must be a number above 0 and below 1
imitation=dagger imitation.initial_fraction=1.0: imitation.initial_fraction must be a number above 0 and below 1
imitation=dagger imitation.beta=1.1: imitation.beta must be a number at least 0 and at most 1, got 1.1
imitation=dagger trainer.num_nodes=2: trainer.num_nodes must be 1 where imitation.rounds is above 0, got 2
imitation=dagger trainer.devices=2: trainer.devices must be 1 where imitation.rounds is above 0, got 2
imitation=dart trainer.devices=auto: trainer.devices must be 1 where imitation.rounds is above 0, got auto
imitation=dart {BY_EPOCHS} trainer.max_epochs=4: trainer.check_val_every_n_epoch must be null
  where imitation.rounds is above 0, since rounds start at training steps, got 1
imitation=dagger imitation.rounds=2: trainer.max_steps must be a multiple of
  (imitation.rounds + 1) · trainer.val_check_interval = 600, so that rounds start at evaluations, got 800
sweep=optuna search.seeds=[0,1]: search.seeds must be at least 3 different seeds, got [0, 1]
sweep=optuna search.seeds=[0,1,1]: search.seeds must be at least 3 different seeds, got [0, 1, 1]
sweep=optuna search.fresh_seeds=[2,3]: search.fresh_seeds must be different seeds, none of search.seeds
sweep=optuna search.fresh_seeds=[3,3]: search.fresh_seeds must be different seeds, none of search.seeds
sweep=optuna search.fresh_seeds=[]: search.fresh_seeds must be different seeds, none of search.seeds
sweep=optuna search.sampler=grid: search.sampler must be one of ['tpe', 'random'], got 'grid'
sweep=optuna search.n_trials=0: search.n_trials must be an integer of at least 1, got 0
"""
"""Settings and the expected message. Words without a dot choose an option; indented lines continue the line above."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [line.split(": ", 1) for line in WRONG_TOGETHER.strip().replace("\n  ", " ").splitlines()],
)
def test_incompatible_settings_are_refused(changes: str, message: str) -> None:
    options = [word for word in changes.split() if "." not in word.partition("=")[0]]
    values = " ".join(word for word in changes.split() if word not in options)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        check_config(changed(composed("train", *options), values))


@pytest.mark.parametrize(
    "changes",
    [
        "dataset.episodes=1",
        "dataset.episodes=0.05",
        "dataset.episodes=0.05 dataset.first_episode=1",
        "dataset.episodes=1.0",
        "dataset.context_length=4 dataset.stride=4",
        "dataset.context_length=4 evaluation.context_length=4",
        "dataset.context_length=1 model.tokens=states",
        "dataset.tokens=returns_states_actions model.tokens=states evaluation.target_return=-3",
        "model.positions=none model.d_model=12 model.n_head=4",
        "model.action_dropout=1.0",
        "optimizer.learning_rate=1",
        "callbacks.ema=null",
        "callbacks.rollout.n_episodes=1",
        'env.kwargs={"gravity":-8.0,"enable_wind":true}',
        "env.seed_blocks.validation=[0,5_000_000] env.seed_blocks.demonstrations=[5_000_000,5_000_000]",
        "expert.gate=null",
        "threads=1",
        f"{BY_EPOCHS} trainer.max_epochs=6 trainer.check_val_every_n_epoch=2",
    ],
)
def test_sensible_settings_are_allowed(base: DictConfig, changes: str) -> None:
    check_config(changed(base, f"demos.n_validation_episodes=100 {changes}"))


@pytest.mark.parametrize(("entry_point", "key"), [("evaluate", "run"), ("probe", "run"), ("report", "runs")])
def test_a_missing_required_value_is_refused(entry_point: str, key: str) -> None:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose(entry_point)
    assert OmegaConf.missing_keys(cfg) == {key}
    with pytest.raises(
        ConfigError, match=f"{key} must be given; it must be (the|a) folder (of a|that contains) finished run"
    ):
        check_config(cfg, entry_point)


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("model.positions", "rotary"),
        ("dataset.stride", 1),
        ("trainer.max_steps", 800),
        ("evaluation.reported_checkpoint", "last"),
        ("demos.filters.drop_truncated", False),
        ("seed", 0),
    ],
)
def test_a_missing_key_takes_its_default_and_not_none(base: DictConfig, key: str, default: Any) -> None:
    OmegaConf.set_struct(base, False)
    parent, _, name = key.rpartition(".")
    del (OmegaConf.select(base, parent) if parent else base)[name]
    check_config(base)
    assert OmegaConf.select(base, key) == default


@pytest.mark.parametrize("group", GROUPS)
def test_a_missing_group_is_refused(base: DictConfig, group: str) -> None:
    OmegaConf.set_struct(base, False)
    del base[group]
    with pytest.raises(ConfigError, match=rf"^{group} must be given; it must be one of \["):
        check_config(base)


# --- names and hashes ---


def test_a_run_name_shows_its_main_choices() -> None:
    choices = ["model=nano", "expert=a2c", "seed=7", "dataset.context_length=5"]
    before, names = HydraConfig.instance().cfg, []
    try:
        for more in ([], ["imitation=dagger"], ["env.id=Acrobot-v1"]):
            with initialize_config_module("ilt.conf", version_base="1.3"):
                cfg = compose("train", [*choices, *more], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            names.append(cfg.run_name.removesuffix(f"-{training_hash(cfg)}"))
    finally:
        HydraConfig.instance().cfg = before
    lander = "lunar_lander-nano-K5-a2c"
    assert names == [f"{lander}-s7", f"{lander}-dagger-s7", "Acrobot-v1-nano-K5-a2c-s7"]


def test_equal_configs_have_equal_hashes(base: DictConfig) -> None:
    assert training_hash(base) == training_hash(base.copy()) == config_hash(training_config(base))


DECIDES_WEIGHTS = """
seed=1
dataset.context_length=7 dataset.episodes=0.5 dataset.batch_size=128
model.dropout=0.05 head={"_target_":"ilt.models.heads.Categorical"} head.chunk=2
expert.seed=1 expert.gamma=0.9 expert.privileged=true expert.deterministic=false expert.train_at_most=4096
demos.n_episodes=500 demos.filters.min_return=200.0
env.kwargs={"gravity":-8.0} env.wrappers={"mask":{"_target_":"ilt.envs.wrappers.MaskObservation","hide":[2]}}
env.seed_blocks.demonstrations=[40_000_000,1_000_000]
imitation={"_target_":"ilt.imitation.dagger.DAgger"}
optimizer.learning_rate=0.1 optimizer.betas=[0.9,0.96]
trainer.max_steps=25 trainer.precision=64-true trainer.gradient_clip_val=null trainer.accumulate_grad_batches=2
callbacks.ema=null callbacks.rollout.n_episodes=20 evaluation.context_length=4 threads=2 threads=null
"""
"""Rollout evaluations use `evaluation.context_length` and pick the best weights, so these keys count."""
LEAVES_WEIGHTS = """
outputs=elsewhere resume=false logger={} logger.tags=["a"] threads=1 processes=3 n_envs=7
expert.gate=null expert.train=false expert.name=other
env.gate=3.0 env.success_return=null env.crash_reward=null env.seed_blocks.test=[40_000_000,1_000_000]
trainer.log_every_n_steps=7 callbacks.preemption=null
evaluation.n_episodes=7 evaluation.video=false evaluation.reported_checkpoint=best
model.dropout=0.0 head.chunk=1 head.execute=1 head.ensemble=null
"""


@pytest.mark.parametrize("change", DECIDES_WEIGHTS.split())
def test_whatever_decides_the_weights_changes_the_hash(base: DictConfig, change: str) -> None:
    assert training_hash(changed(base, change)) != training_hash(base)


@pytest.mark.parametrize("change", LEAVES_WEIGHTS.split())
def test_whatever_does_not_affect_the_weights_keeps_the_hash(base: DictConfig, change: str) -> None:
    assert training_hash(changed(base, change)) == training_hash(base)


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_recordings_replace_the_demonstrations_of_any_experiment(experiment: str) -> None:
    cfg = composed("train", f"experiment={experiment}", "demos=minari", "demos.id=toys/echo-v0")
    check_config(cfg)
    assert set(cfg.demos) == {"_target_", *named("demos", "minari").rules, "filters"}


def test_recorded_episodes_are_identified_by_their_content(tmp_path: Path) -> None:
    hashes = []
    for content in ("same", "same", "other"):
        path = tmp_path / f"{len(hashes)}.npz"
        path.write_text(content)
        validation = f"demos.validation_path={tmp_path / '0.npz'}"
        hashes.append(training_hash(composed("train", "demos=file", f"demos.path={path}", validation)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_new_key_with_a_default_renames_no_run_and_no_shipped_expert(
    base: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Options of `conf/expert` find the same shipped experts before and after."""

    def found() -> dict[str, str]:
        asked = [("lunar_lander", "ppo"), ("lunar_lander", "a2c"), ("lunar_lander_hidden", "ppo_privileged")]
        configs = [composed("expert", f"env={env}", f"expert={expert}") for env, expert in asked]
        return {
            c.expert.name: find(Context(EnvSpec.from_config(c.env), Store(tmp_path)), c.expert).name for c in configs
        }

    hash_before, experts_before = training_hash(base), found()
    assert {(SHIPPED["experts"] / name).is_dir() for name in experts_before.values()} == {True}
    for each in COMPONENTS:
        if each.target and not each.group.startswith("env"):
            with_another(monkeypatch, each, schema=with_a_new_key(each))
    assert training_hash(base) == hash_before
    check_config(base)
    assert base.model.novelty == base.expert.novelty == 0.5
    assert training_hash(base) == hash_before
    assert training_hash(changed(base, "model.novelty=1.0")) != hash_before
    assert found() == experts_before


def test_search_settings_are_not_part_of_a_run(base: DictConfig) -> None:
    searched = choose("sweep", "optuna")
    assert training_hash(searched) == training_hash(base)
    assert searched.search.study_name == f"search-{training_hash(base)}"


def test_the_config_of_a_run_holds_plain_values_and_only_its_own_keys(base: DictConfig) -> None:
    plain = run_config(base)
    assert set(plain) == set(base) - (set(NOT_OF_THE_RUN) - {"evaluation"})
    assert type(plain["optimizer"]["betas"]) is list
    assert type(plain["model"]) is dict


# --- seeds ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test:100", ("test", 0, 100)),
        ("test:1", ("test", 0, 1)),
        ("test:40:60", ("test", 40, 60)),
        ("test:99:1", ("test", 99, 1)),
        ("selection:10", ("selection", 0, 10)),
        *((text, "another form") for text in ["", "test", "100", "tests:10", "test:", "test:ten", "test:-1"]),
        *((text, "another form") for text in ["test:1.5", "test:1:2:3", "test::5", ":5"]),
        *((text, "too many") for text in ["test:101", "test:1:100", "test:100:1", "test:0", "test:5:0"]),
    ],
)
def test_seeds_are_parsed_as_block_offset_and_count(text: str, expected: tuple[str, int, int] | str) -> None:
    blocks = {"test": [3000, 100], "selection": [2000, 10]}
    refusals = {
        "another form": "seeds must be BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of ['selection', 'test'], "
        f"such as test:1000, got {text!r}",
        "too many": f"seeds must stay in env.seed_blocks.test, which has 100 seeds, got {text!r}",
    }
    if isinstance(expected, tuple):
        assert parse_seeds(text, blocks) == expected
    else:
        with pytest.raises(ConfigError, match=re.escape(refusals[expected])):
            parse_seeds(text, blocks)
