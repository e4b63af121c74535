"""Every option composes and can be built, wrong values are refused by their key, and names say what decides weights."""

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from ilt import registry, schema
from ilt.cli import app  # noqa: F401  (which hands the schemas to Hydra)
from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.rollout.recorded import Context
from ilt.schema import COMPONENTS, ConfigError, config_hash, locate, own_keys
from ilt.settings import (
    GROUPS,
    NOT_OF_THE_RUN,
    check_config,
    parse_seeds,
    run_config,
    training_config,
    training_hash,
)
from ilt.tracking.store import SHIPPED, Store
from ilt.training.fit import check_components, model_spec
from tests.test_schema import with_a_new_key, with_another

CONF = Path(__file__).parent.parent / "conf"
ENTRY_POINTS = sorted({path.stem for path in CONF.glob("*.yaml")} - {"base"})
FILES = {(path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/**/*.yaml")}
STORED = {(c.group, registry.stored_as(c)) for c in COMPONENTS if c.target and c.group in GROUPS}
OPTIONS = sorted(FILES | STORED)
FORCED = {
    "train": ["run_name=name"],
    "evaluate": ["run=folder"],
    "probe": ["run=folder"],
    "report": ["runs=folder"],
    "compare": ["name=name", "policies={student: folder}"],
}
"""Keys without a default, and the one whose default asks Hydra which options were chosen."""
REQUIRED = {
    ("env", "gymnasium"): ["env.id=CartPole-v1"],
    ("expert", "sb3"): ["expert.path=expert.zip"],
    ("demos", "file"): ["demos.path=a.npz", "demos.validation_path=b.npz"],
}
"""What an option leaves to its user."""


@functools.cache
def _composed(entry_point: str, *overrides: str) -> DictConfig:
    forced = [each for each in FORCED.get(entry_point, []) if not any(o.startswith("policies=") for o in overrides)]
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose(entry_point, [*forced, *overrides])


def composed(entry_point: str = "train", *overrides: str) -> DictConfig:
    return _composed(entry_point, *overrides).copy()


@pytest.fixture
def base() -> DictConfig:
    """The main job's config with its defaults."""
    return composed()


@functools.cache
def _groups() -> set[str]:
    return {name for entry in OmegaConf.load(CONF / "train.yaml").defaults if entry != "base" for name in entry}


def choose(group: str, option: str) -> DictConfig:
    """The main config with this option, whether or not it has the group by default."""
    if group == "policies":
        return composed("compare", "name=name", f"policies={option}")
    plus = "" if group in _groups() or group.startswith("hydra/") else "+"
    return composed("train", f"{plus}{group}={option}", *REQUIRED.get((group, option), []))


def options_of(group: str) -> list[str]:
    return [option for name, option in OPTIONS if name == group]


def changed(cfg: DictConfig, **values: Any) -> DictConfig:
    """A copy of the config with these keys set; dots are written as double underscores."""
    cfg = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    return cfg


# --- every option ---


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_into_a_config_that_is_allowed(group: str, option: str) -> None:
    check_config(choose(group, option), "compare" if group == "policies" else "train")


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_entry_point_has_a_config_that_is_allowed(entry_point: str) -> None:
    check_config(composed(entry_point), entry_point)


def test_groups_hold_the_options_that_one_would_look_for() -> None:
    assert {"nano", "tiny", "small", "base", "mlp", "mlp_stack", "gru", "lstm"} <= set(options_of("model"))
    assert {"ppo", "a2c", "sb3", "heuristic", "random"} <= set(options_of("expert"))
    assert {"bc", "dagger", "dart"} <= set(options_of("imitation"))
    assert {"cpu", "gpu", "smoke"} <= set(options_of("trainer"))
    assert {"wandb", "csv", "none"} <= set(options_of("logger"))


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in (*GROUPS, "callbacks")])
def test_without_hydra_an_option_is_the_same(group: str, option: str) -> None:
    by_hydra = OmegaConf.to_container(choose(group, option)[group], resolve=False)
    required = OmegaConf.from_dotlist(REQUIRED.get((group, option), []))
    assert (
        registry.merge(registry.load_option(group, option), OmegaConf.to_container(required).get(group, {})) == by_hydra
    )
    assert option in registry.options_of(group)


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in (*GROUPS, "callbacks") and o[0] != "head"])
def test_every_component_can_be_built(group: str, option: str, lander: EnvSpec, tmp_path: Path) -> None:
    cfg = choose(group, option)
    spec = EnvSpec.from_config(cfg.env) if group == "env" else lander
    ctx = Context(spec, Store(tmp_path))
    check_components(ctx, cfg)
    assert make_expert(cfg.expert).total_steps == cfg.expert.get("total_steps", 0)
    if group == "model":
        model, head = model_spec(ctx, cfg).build()
        outputs = model(torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool))
        assert outputs.shape == (2, 3, head.n_outputs)


@pytest.mark.parametrize("option", options_of("head"))
def test_every_head_can_be_built_for_actions_that_it_is_for(option: str, lander: EnvSpec, tmp_path: Path) -> None:
    env = lander if option in ("auto", "categorical") else EnvSpec(id="Pendulum-v1")
    check_components(Context(env, Store(tmp_path)), choose("head", option))


@pytest.mark.parametrize("option", options_of("optimizer"))
def test_every_optimizer_can_be_made(option: str) -> None:
    values = choose("optimizer", option).optimizer
    make = locate(values._target_, key="optimizer._target_")
    make(torch.nn.Linear(2, 2), total_steps=10, fused=False, **own_keys("optimizer", values))


@pytest.mark.parametrize("option", options_of("trainer"))
def test_every_trainer_can_be_made(option: str, tmp_path: Path) -> None:
    trainer = choose("trainer", option).trainer
    if trainer.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    options = own_keys("trainer", trainer)
    made = pl.Trainer(**options, logger=False, enable_checkpointing=False, default_root_dir=str(tmp_path))
    assert made.max_steps == trainer.max_steps


def test_a_config_error_is_found_before_anything_heavy_is_imported() -> None:
    heavy = ["torch", "gymnasium", "pytorch_lightning", "stable_baselines3", "matplotlib", "scipy", "optuna", "wandb"]
    program = f"""
import sys
sys.argv = ["ilt", "train", "model.n_layer=0"]
from ilt.cli.main import main
try:
    main()
except SystemExit as stop:
    print(stop.code, [name for name in {heavy} if name in sys.modules], sep="|")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "model.n_layer must be an integer of at least 1, got 0|[]"
    assert said.stderr == ""


# --- options of another package ---

OWN_PARTS = """
import torch
from ilt.imitation.base import BC
from ilt.models.base import SequenceModel

class Model(SequenceModel):
    def __init__(self, *, observation_dim, n_outputs, action_space, context_length, width=4):
        sizes = {"action_space": action_space, "context_length": context_length}
        super().__init__(observation_dim=observation_dim, n_outputs=n_outputs, **sizes)
        self.layer = torch.nn.Linear(observation_dim, n_outputs)

    def forward(self, observations, actions, mask):
        return self.layer(observations)

def expert(observations, threshold=0.5):
    return (observations[:, 0] > threshold).astype("int64")

def source(env, block, amount):
    return amount

class Algorithm(BC):
    def __init__(self, *, patience):
        super().__init__()

def optimizer(model, *, total_steps, momentum):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
"""
OWN = {
    "env": "id: CartPole-v1",
    "model": "_target_: own_parts.Model\nwidth: 8",
    "expert": "_target_: own_parts.expert\nthreshold: 0.25",
    "demos": "_target_: own_parts.source\namount: 3",
    "imitation": "_target_: own_parts.Algorithm\npatience: 2",
    "optimizer": "_target_: own_parts.optimizer\nmomentum: 0.5",
}
"""Own options that say nothing but what is theirs."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override that finds them."""
    (tmp_path / "own_parts.py").write_text(OWN_PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    for group, text in OWN.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "own.yaml").write_text(f"{text}\n")
    return f"hydra.searchpath=[file://{tmp_path / 'conf'}]"


@pytest.mark.parametrize("groups", [*([group] for group in OWN), list(OWN)], ids="-".join)
def test_an_option_of_ones_own_needs_no_key_but_its_own(groups: list[str], own: str, tmp_path: Path) -> None:
    cfg = _composed.__wrapped__("train", own, *(f"{group}=own" for group in groups))
    before = training_hash(cfg)
    check_config(cfg)
    assert training_hash(cfg) == before
    assert cfg.env.seed_blocks.test[0] == 30_000_000
    assert cfg.expert.gate_episodes == 400
    assert cfg.demos.filters.min_return is None
    check_components(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg)
    make_expert(cfg.expert)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.widht=3", "model.widht is not a key of model._target_=own_parts.Model; did you mean model.w"),
        ("~imitation.patience", "imitation.patience must be given: own_parts.Algorithm asks for it"),
        (
            "+optimizer.moment=1",
            "optimizer.moment is not a key of optimizer._target_=own_parts.optimizer",
        ),
        (
            "+demos.filters={min_returns: 1}",
            "demos.filters.min_returns is not a key; did you mean",
        ),
        ("~demos.amount", "demos._target_=own_parts.source cannot be called with env, block and {}"),
        ("+expert.gate=high", "expert.gate must be a number, or null, got 'high'"),
        ("model._target_=own_parts.Modell", "model._target_=own_parts.Modell names nothing"),
    ],
)
def test_a_mistake_in_an_option_of_ones_own_is_one_line(override: str, message: str, own: str, tmp_path: Path) -> None:
    cfg = _composed.__wrapped__("train", own, *(f"{group}=own" for group in OWN), override)

    def start() -> None:
        check_config(cfg)
        check_components(Context(EnvSpec.from_config(cfg.env), Store(tmp_path)), cfg)

    with pytest.raises(ConfigError) as refusal:
        start()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


# --- wrong values ---


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
        ("env.success_return", "high", "a number, or null"),
        ("env.success_return", float("nan"), "a number, or null"),
        ("env.seed_blocks.test", [0], "a list of 2 values, each an integer of at least 0"),
        ("env.seed_blocks.test", [-1, 5], "a list of 2 values, each an integer of at least 0"),
        ("env.seed_blocks.test", 7, "a list of 2 values, each an integer of at least 0"),
        ("expert._target_", 3, "the dotted path of something that can be imported"),
        ("expert.gate", "none", "a number, or null"),
        ("expert.seed", -3, "an integer of at least 0"),
        ("expert.gamma", 1.5, "a number at least 0 and at most 1"),
        ("expert.hidden", 64, "a list of an integer of at least 1"),
        ("expert.hidden", [64, 0], "a list of an integer of at least 1"),
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
        (
            "compare",
            "subsets",
            {"windy": 3},
            "a mapping from names to PARAMETER:LOW:HIGH, such as",
        ),
        ("compare", "video", "student", "a list of a name of letters, digits, _ and -, or null"),
        ("compare", "reference", "the expert", "a name of letters, digits, _ and -, or null"),
        ("collect", "demos.n_validation_episodes", 0, "an integer of at least 1"),
        ("expert", "expert.gate_episodes", 0, "an integer of at least 1"),
    ],
)
def test_other_entry_points_refuse_wrong_values_as_well(entry_point: str, key: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{key} must be {wanted}") + f".*, got {re.escape(repr(value))}$"):
        check_config(changed(composed(entry_point), **{key: value}), entry_point)


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
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes must be 1 where imitation\.rounds is above 0, got 2"):
        check_config(composed("train", "imitation=dagger", "+trainer.num_nodes=2"))


@pytest.mark.parametrize(
    "values",
    [
        {"dataset__episodes": 1},
        {"dataset__episodes": 0.05},
        {"dataset__episodes": 1.0},
        {"dataset__context_length": 4, "dataset__stride": 4},
        {"dataset__context_length": 4, "evaluation__context_length": 4},
        {"dataset__context_length": 1, "model__tokens": "states"},
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
    ("algorithm", "values", "message"),
    [
        ("bc", {"imitation__rounds": 2}, "imitation.rounds is not a key"),
        ("bc", {"imitation__initial_fraction": 0.5}, "imitation.initial_fraction is not a key"),
        ("bc", {"imitation__beta": 0.0}, "imitation.beta is not a key"),
        ("dart", {"imitation__beta": 0.0}, "imitation.beta is not a key"),
        ("dart", {"imitation__rounds": 0}, "imitation.rounds must be an integer of at least 1, got 0"),
        ("dart", {"imitation__initial_fraction": 0}, "imitation.initial_fraction must be a number above 0 and below 1"),
        (
            "dagger",
            {"imitation__initial_fraction": 1.0},
            "imitation.initial_fraction must be a number above 0 and below",
        ),
        ("dagger", {"imitation__beta": 1.1}, "imitation.beta must be a number at least 0 and at most 1, got 1.1"),
        ("dagger", {"trainer__devices": 2}, "trainer.devices must be 1 where imitation.rounds is above 0, got 2"),
        ("dart", {"trainer__devices": "auto"}, "trainer.devices must be 1 where imitation.rounds is above 0, got auto"),
        (
            "dart",
            {**BY_EPOCHS, "trainer__max_epochs": 4},
            "trainer.check_val_every_n_epoch must be null where imitation.rounds is above 0, since rounds begin at "
            "training steps, got 1",
        ),
        (
            "dagger",
            {"imitation__rounds": 2},
            "trainer.max_steps must be a multiple of (imitation.rounds + 1) · trainer.val_check_interval = 1500, "
            "so that rounds begin at evaluations, got 2000",
        ),
    ],
)
def test_rounds_that_cannot_be_are_refused(algorithm: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_config(changed(composed("train", f"imitation={algorithm}"), **values))


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
    with initialize_config_module("ilt.conf", version_base="1.3"):
        cfg = compose(entry_point)
    assert OmegaConf.missing_keys(cfg) == {key}


# --- names and hashes ---


def test_the_name_of_a_run_tells_its_main_choices() -> None:
    choices = ["model=nano", "expert=a2c", "seed=7", "dataset.context_length=5"]
    before = HydraConfig.instance().cfg
    try:
        names = []
        for more in ([], ["imitation=dagger"], ["env.id=Acrobot-v1"]):
            with initialize_config_module("ilt.conf", version_base="1.3"):
                cfg = compose("train", [*choices, *more], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            names.append(cfg.run_name)
            assert cfg.run_name.endswith(training_hash(cfg))
    finally:
        HydraConfig.instance().cfg = before
    assert [name.rpartition("-")[0] for name in names] == [
        "lunar_lander-nano-K5-a2c-s7",
        "lunar_lander-nano-K5-a2c-dagger-s7",
        "Acrobot-v1-nano-K5-a2c-s7",
    ]


def test_equal_configs_have_equal_hashes(base: DictConfig) -> None:
    assert training_hash(base) == training_hash(base.copy()) == config_hash(training_config(base))


DECIDES_WEIGHTS: list[dict[str, Any]] = [
    {"seed": 1},
    {"dataset__context_length": 7},
    {"dataset__episodes": 0.5},
    {"dataset__batch_size": 128},
    {"model__dropout": 0.05},
    {"head": {"_target_": "ilt.models.heads.Categorical"}},
    {"expert__seed": 1},
    {"expert__gamma": 0.9},
    {"expert__privileged": True},
    {"expert__deterministic": False},
    {"expert__train_at_most": 4096},
    {"demos__n_episodes": 500},
    {"demos__filters__min_return": 200.0},
    {"env__kwargs": {"gravity": -8.0}},
    {"env__wrappers": {"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [2]}}},
    {"env__seed_blocks__demonstrations": [40_000_000, 1_000_000]},
    {"imitation": {"_target_": "ilt.imitation.dagger.DAgger"}},
    {"optimizer__betas": [0.9, 0.96]},
    {"trainer__precision": "64-true"},
    {"trainer__gradient_clip_val": None},
    {"trainer__accumulate_grad_batches": 2},
    {"callbacks__ema": None},
    {"callbacks__rollout__n_episodes": 20},  # which pick the best weights
    {"evaluation__context_length": 4},  # with which the student also acts while it learns
]


@pytest.mark.parametrize("values", DECIDES_WEIGHTS, ids=str)
def test_whatever_decides_the_weights_changes_the_hash(base: DictConfig, values: dict[str, Any]) -> None:
    assert training_hash(changed(base, **values)) != training_hash(base)


@pytest.mark.parametrize(
    "values",
    [
        {"outputs": "elsewhere"},
        {"resume": False},
        {"logger": {}},
        {"logger__tags": ["a"]},
        {"threads": 1},
        {"processes": 3},
        {"n_envs": 7},
        {"expert__gate": None},
        {"expert__train": False},
        {"expert__name": "other"},
        {"env__gate": 3.0},
        {"env__success_return": None},
        {"env__crash_reward": None},
        {"env__seed_blocks__test": [40_000_000, 1_000_000]},
        {"trainer__log_every_n_steps": 7},
        {"callbacks__preemption": None},
        {"callbacks__best__monitor": "rollout/success_rate"},
        {"evaluation__n_episodes": 7},
        {"evaluation__video": False},
        {"evaluation__reported_checkpoint": "best"},
        {"model__dropout": 0.0},
    ],
    ids=str,
)
def test_whatever_leaves_the_weights_as_they_are_leaves_the_hash(base: DictConfig, values: dict[str, Any]) -> None:
    assert training_hash(changed(base, **values)) == training_hash(base)


def test_recorded_episodes_are_known_by_their_content(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"]
    for path, content in zip(paths, ("same", "same", "other"), strict=True):
        path.write_text(content)
    first, copied, other = (
        training_hash(composed("train", "demos=file", f"demos.path={path}", f"demos.validation_path={paths[0]}"))
        for path in paths
    )
    assert first == copied != other


def test_a_new_key_with_a_default_renames_no_run_and_no_shipped_expert(
    base: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shipped experts that the options of `conf/expert` describe are found, before and after."""

    def found() -> dict[str, str]:
        from ilt.experts.find import find

        asked = [("lunar_lander", "ppo"), ("lunar_lander", "a2c"), ("lunar_lander_hidden", "ppo_privileged")]
        configs = [composed("expert", f"env={env}", f"expert={expert}") for env, expert in asked]
        ctxs = [Context(EnvSpec.from_config(cfg.env), Store(tmp_path)) for cfg in configs]
        return {cfg.expert.name: find(ctx, cfg.expert).name for ctx, cfg in zip(ctxs, configs, strict=True)}

    hash_before, experts_before = training_hash(base), found()
    assert {(SHIPPED["experts"] / name).is_dir() for name in experts_before.values()} == {True}
    asked = [(c.group, c.name) for c in COMPONENTS if c.target and not c.group.startswith("env")]
    for group, name in asked:
        with_another(monkeypatch, group, name, schema=with_a_new_key(schema.named(group, name)))
    assert training_hash(base) == hash_before
    check_config(base)
    assert base.model.novelty == base.expert.novelty == 0.5
    assert training_hash(base) == hash_before
    assert training_hash(changed(base, model__novelty=1.0)) != hash_before
    assert found() == experts_before


def test_how_it_was_searched_for_is_not_part_of_a_run(base: DictConfig) -> None:
    searched = choose("sweep", "optuna")
    assert training_hash(searched) == training_hash(base)
    assert searched.search.study_name == f"search-{training_hash(base)}"


def test_the_config_of_a_run_is_plain_and_lacks_what_is_not_its_own(base: DictConfig) -> None:
    plain = run_config(base)
    assert set(plain) == set(base) - (set(NOT_OF_THE_RUN) - {"evaluation"})
    assert type(plain["optimizer"]["betas"]) is list
    assert type(plain["model"]) is dict


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


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("model.positions", "rotary"),
        ("dataset.stride", 1),
        ("trainer.max_steps", 2000),
        ("evaluation.reported_checkpoint", "last"),
        ("demos.filters.drop_truncated", False),
        ("seed", 0),
    ],
)
def test_a_missing_key_has_its_default_and_is_not_read_as_none(base: DictConfig, key: str, default: Any) -> None:
    OmegaConf.set_struct(base, False)
    parent, _, name = key.rpartition(".")
    del (OmegaConf.select(base, parent) if parent else base)[name]
    check_config(base)
    assert OmegaConf.select(base, key) == default


@pytest.mark.parametrize("group", GROUPS)
def test_a_missing_group_is_asked_for(base: DictConfig, group: str) -> None:
    OmegaConf.set_struct(base, False)
    del base[group]
    with pytest.raises(ConfigError, match=rf"^{group} must be given; it must be one of \["):
        check_config(base)


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
        check_config(OmegaConf.create({}), "evaluate")
