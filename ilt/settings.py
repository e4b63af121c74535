"""A complete config: its groups, the checks across them, and the identity of the training run that it describes."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ilt.data.config import RETURNS_STATES_ACTIONS, is_return_conditioned
from ilt.envs.spec import BLOCKS, NO_ENV, EnvSpec, check_disjoint
from ilt.machine import check_precision, check_writable, existing
from ilt.models.config import check_chunk
from ilt.registry import GROUPS, choices_of, load_option, options_of, parts_of
from ilt.rules import COUNT, FOLDER, TEXT
from ilt.schema import (
    ConfigError,
    canonical,
    check,
    code_of,
    common_keys,
    complete,
    config_hash,
    did_you_mean,
    leaves,
    named,
    own_keys,
    plain,
    schema_of,
)
from ilt.tracking.store import file_digests

NOT_OF_THE_RUN = (
    "hydra", "outputs", "run_name", "resume", "logger", "threads", "processes", "n_envs", "search", "evaluation"
)  # fmt: skip
"""Top-level keys that affect neither the weights nor a run's name."""

STUDENT = ("context_length", "deterministic")
"""Keys of `evaluation` that determine how the student acts during training, besides `target_return`."""


ROLLS_OUT = ("rollout", "best")
"""Callbacks that need an environment, the second one through the first. Without one, they are left out."""


def check_config(cfg: DictConfig, command: str = "train", *, partial: bool = False) -> None:
    """Fill in a config's defaults in place. Raise ConfigError, with key, value and what is allowed, if it is invalid.

    Args:
        command: the command that the config is for.
        partial: whether top-level keys may be missing, as in the config of a run's folder.
    """
    keys = named("command", command)
    known = {*keys.rules, *getattr(keys.schema, "groups", ()), "hydra"}
    for name in cfg:
        if name not in known:
            raise ConfigError(f"{name!s} is not a key{did_you_mean(str(name), known)}")
    if not partial:
        complete(keys, cfg)
        if command == "train" and (absent := [group for group in GROUPS if group not in cfg]):
            raise ConfigError(f"{absent[0]} must be given; it must be one of {options_of(absent[0])}")
    check(dataclasses.replace(keys, open=True), cfg, prefix="")
    if not partial:
        existing(cfg.outputs)
    for prefix, found, values in parts_of(cfg):
        complete(found, values)
        check(found, values, prefix=prefix)
    if "env" in cfg and schema_of("env", cfg.env) is None:
        own = named("env", "gymnasium").target
        raise ConfigError(f"env._target_ must be {own}, with env.id naming your environment, got {cfg.env._target_}")
    if "expert" in cfg and cfg.expert.name is None:
        found = schema_of("expert", cfg.expert)
        path = code_of(found, cfg.expert)[1]
        registered = found.name if found and found.target == path else ""
        cfg.expert.name = registered or re.sub(r"\W", "_", path.rpartition(".")[2])
    if "env" in cfg:
        check_disjoint(plain(cfg.env.seed_blocks))
        _check_seeds(cfg)
        if not has_env(cfg.env):
            _check_without_env(cfg, partial=partial)
    if "expert" in cfg:
        _check_expert(cfg)
    if "dataset" in cfg:
        _check_dataset(cfg)
    if "model" in cfg:
        _check_model(cfg)
    if "head" in cfg:
        check_chunk(cfg.head)
    if "trainer" in cfg:
        _check_trainer(cfg)
    if cfg.get("search") is not None:
        check_search(cfg.search)


def has_expert(expert: Any) -> bool:
    """Return whether a config's `expert` is one, and not `none`."""
    return bool(expert["_target_"] != named("expert", "none").target)


def has_env(env: Any) -> bool:
    """Return whether a config's `env` is one, and not `none`."""
    return bool(env["id"] != NO_ENV)


def training_config(cfg: DictConfig) -> dict[str, Any]:
    """Return everything that determines a run's weights, in canonical form; see `ilt.schema.canonical`.

    Scoring, figures and logging are not part of it.
    """
    cfg = cfg.copy()
    for _, found, values in parts_of(cfg):
        complete(found, values)
    env = EnvSpec.from_config(cfg.env)
    if not env.simulated:
        _check_without_env(cfg, partial=True)  # before recordings are read or downloaded, to identify them
    kept: dict[str, Any] = {
        "env": env.identity(),
        "seed_blocks": {block: list(env.seed_blocks[block]) for block in BLOCKS if block != "test"},
        "expert": {
            **canonical("expert", cfg.expert),
            **file_digests(own_keys("expert", cfg.expert)),  # another file under the same name is another expert
            "deterministic": cfg.expert.deterministic,
        },
        "callbacks": {
            str(name): canonical("callbacks", callback, prefix=f"callbacks.{name}")
            for name, callback in cfg.callbacks.items()
            if callback is not None and not _watches(callback)
        },
        "student": {key: cfg.evaluation[key] for key in STUDENT},
        "seed": cfg.seed,
    }
    if cfg.dataset.mirror:
        kept["mirror"] = plain(cfg.env.mirror)
    if cfg.evaluation.target_return is not None:
        kept["student"]["target_return"] = cfg.evaluation.target_return
    if cfg.get("threads", 1) != 1:
        kept["threads"] = cfg.threads  # sums over several threads round differently
    if cfg.expert.train_at_most is not None:  # a shorter training may replace the named expert
        kept["expert"]["train_at_most"] = cfg.expert.train_at_most
    groups = ("demos", "dataset", "head", "imitation", "model", "optimizer", "trainer")
    kept |= {group: canonical(group, cfg[group]) for group in groups}
    if kept["demos"]["component"] != "expert":  # an expert's demonstrations are determined by its config
        from ilt.data.sources import make_source

        kept["demos"] |= make_source(cfg.demos).identity()
    return {"kind": "training", "version": 1, **kept}


def training_hash(cfg: DictConfig) -> str:
    """Return ten hexadecimal digits that identify a training run."""
    return config_hash(training_config(cfg))


def is_of_the_run(override: str) -> bool:
    """Return whether an override, such as `+model.n_layer=2`, sets a key that may affect a run's weights."""
    group, _, key = override.lstrip("+~").partition("=")[0].partition(".")
    return group not in NOT_OF_THE_RUN or (group == "evaluation" and key in (*STUDENT, "target_return"))


def run_config(cfg: DictConfig) -> dict[str, Any]:
    """Return a run's config as plain containers, resolved, with only the keys that affect results."""
    return {str(key): plain(cfg[key]) for key in cfg if key not in NOT_OF_THE_RUN or key == "evaluation"}


def parse_seeds(text: str, blocks: Mapping[str, Any], key: str = "seeds") -> tuple[str, int, int]:
    """Parse BLOCK:COUNT or BLOCK:OFFSET:COUNT into (block, offset, count). Raise ConfigError if it is invalid."""
    wanted = f"BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of {sorted(blocks)}, such as test:1000"
    block, *numbers = text.split(":")
    if block not in blocks or not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers):
        raise ConfigError(f"{key} must be {wanted}, got {text!r}")
    offset, count = (0, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))
    if count < 1 or offset + count > blocks[block][1]:
        raise ConfigError(
            f"{key} must stay in env.seed_blocks.{block}, which has {blocks[block][1]} seeds, got {text!r}"
        )
    return block, offset, count


def parse_subset(key: str, text: str) -> tuple[str, float, float]:
    """Parse PARAMETER:LOW:HIGH, with two quantiles, such as `wind_power:0.75:1`. Raise ConfigError if it is invalid."""
    name, *bounds = text.split(":")
    try:
        low, high = map(float, bounds)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise ConfigError(
            f"{key} must be PARAMETER:LOW:HIGH with two quantiles from 0 to 1, such as wind_power:0.75:1 for the "
            f"quarter of episodes with the most wind, got {text!r}"
        )
    return name, low, high


def _watches(callback: Any) -> bool:
    found = schema_of("callbacks", callback)
    return found is not None and found.watches


def _check_seeds(cfg: DictConfig) -> None:
    wanted = {
        "demos.n_episodes": "demonstrations",
        "demos.n_validation_episodes": "validation",
        "callbacks.rollout.n_episodes": "selection",
        "evaluation.n_episodes": "test",
    }
    given = dict(leaves({k: plain(cfg[k]) for k in ("demos", "callbacks", "evaluation") if k in cfg}))
    for key, block in wanted.items():
        held = cfg.env.seed_blocks[block][1]
        if key in given and given[key] > held:
            raise ConfigError(f"{key} must be at most {held}, the size of env.seed_blocks.{block}, got {given[key]}")
    if "expert" not in cfg:
        return
    selection, held = cfg.expert.selection_episodes + cfg.expert.gate_episodes, cfg.env.seed_blocks.selection[1]
    if selection > held:
        raise ConfigError(
            f"expert.selection_episodes + expert.gate_episodes must be at most {held}, the size of "
            f"env.seed_blocks.selection, got {selection}"
        )


def _check_expert(cfg: DictConfig) -> None:
    """Check that `heuristic` has a controller, and that a trained expert's updates have at least two steps."""
    expert, found = cfg.expert, schema_of("expert", cfg.expert)
    name = found.name if found else ""
    if name == "heuristic" and "env" in cfg and cfg.env.heuristic is None:
        raise ConfigError(f"env.heuristic must name a controller for expert=heuristic, got null for {cfg.env.id}")
    if not has_expert(expert):
        _check_without_expert(cfg)
    if name in ("ppo", "a2c") and expert.n_steps * expert.n_envs < 2:
        raise ConfigError(f"expert.n_steps · expert.n_envs must be at least 2, got {expert.n_steps} · {expert.n_envs}")


def _check_without_expert(cfg: DictConfig) -> None:
    """Check that nothing needs an expert: neither the demonstrations nor the labels of rounds."""
    if "demos" in cfg and (found := schema_of("demos", cfg.demos)) is not None and found.name == "expert":
        raise ConfigError(
            "expert must be one that demonstrates where demos=expert, got none; recordings need none: demos=file or "
            "demos=minari"
        )
    if rounds := cfg.get("imitation", {}).get("rounds", 0):
        raise ConfigError(
            f"expert must be one that labels the student's episodes where imitation.rounds is above 0, got none with "
            f"imitation.rounds={rounds}; imitation=bc needs no labels"
        )


def _check_without_env(cfg: DictConfig, *, partial: bool) -> None:
    """Check that nothing needs an environment: neither who demonstrates or labels, nor what is chosen by returns."""
    if "demos" not in cfg and not partial:
        raise ConfigError("env must be an environment to act in, got none; only training on recordings needs none")
    found = schema_of("demos", cfg.demos) if "demos" in cfg else None
    if found is not None and found.name in ("expert", "mixed"):
        raise ConfigError(
            f"demos must be recordings where env=none, such as demos=file or demos=minari, got {found.name}"
        )
    if "expert" in cfg and has_expert(cfg.expert):
        found = schema_of("expert", cfg.expert)
        name = (found and found.name) or cfg.expert._target_
        raise ConfigError(f"expert must be none where env=none, since there is nothing to act in, got {name}")
    if rounds := cfg.get("imitation", {}).get("rounds", 0):
        raise ConfigError(
            f"imitation.rounds must be 0 where env=none, since rounds collect episodes, got {rounds}; imitation=bc has "
            "none"
        )
    if "evaluation" in cfg and cfg.evaluation.reported_checkpoint == "best":
        raise ConfigError(
            "evaluation.reported_checkpoint must be last where env=none, since rollouts choose the best, got best"
        )
    if cfg.get("search") is not None:
        raise ConfigError("sweep must be null where env=none, since a search compares returns, got optuna")


def _check_dataset(cfg: DictConfig) -> None:
    dataset = cfg.dataset
    if "stride" in dataset and dataset.stride > dataset.context_length:
        raise ConfigError(
            f"dataset.stride must be at most dataset.context_length = {dataset.context_length}, or steps would be "
            f"skipped, got {dataset.stride}"
        )
    n_episodes = cfg.demos.get("n_episodes")
    if isinstance(dataset.episodes, int) and n_episodes is not None and dataset.episodes > n_episodes:
        raise ConfigError(f"dataset.episodes must be at most demos.n_episodes = {n_episodes}, got {dataset.episodes}")
    n_used = dataset.episodes if isinstance(dataset.episodes, int) else max(1, dataset.episodes * (n_episodes or 0))
    if n_episodes is not None and dataset.first_episode + n_used > n_episodes:
        raise ConfigError(
            f"dataset.first_episode must leave dataset.episodes = {dataset.episodes} of demos.n_episodes = "
            f"{n_episodes}, got {dataset.first_episode}"
        )
    if isinstance(dataset.episodes, float) and n_episodes is not None and dataset.episodes * n_episodes < 0.5:
        raise ConfigError(
            f"dataset.episodes must be at least half an episode of demos.n_episodes = {n_episodes}, "
            f"got {dataset.episodes}"
        )
    context_length = cfg.evaluation.context_length
    if context_length is not None and context_length > dataset.context_length:
        raise ConfigError(
            f"evaluation.context_length must be at most dataset.context_length = {dataset.context_length}, "
            f"got {context_length}"
        )
    if (target := cfg.evaluation.target_return) is not None and not is_return_conditioned(dataset):
        raise ConfigError(
            f"evaluation.target_return must be null unless dataset.tokens={RETURNS_STATES_ACTIONS}, got {target}"
        )


def _check_model(cfg: DictConfig) -> None:
    model = cfg.model
    if (found := schema_of("model", model)) is None or found.name != "transformer":
        return
    if model.d_model % model.n_head:
        raise ConfigError(f"model.d_model must be divisible by model.n_head = {model.n_head}, got {model.d_model}")
    if model.positions == "rotary" and model.d_model // model.n_head % 2:
        raise ConfigError(
            f"model.d_model / model.n_head must be even for model.positions=rotary, got {model.d_model // model.n_head}"
        )


def _check_trainer(cfg: DictConfig) -> None:
    """Check that training counts either steps or epochs, and ends with a rollout evaluation of the last weights."""
    trainer = cfg.trainer
    by_steps = trainer.check_val_every_n_epoch is None
    counts = f"where trainer.check_val_every_n_epoch is {'null' if by_steps else 'set'}"
    length, other = ("max_steps", "max_epochs") if by_steps else ("max_epochs", "max_steps")
    every = "val_check_interval" if by_steps else "check_val_every_n_epoch"
    if by_steps != COUNT.allows(trainer.val_check_interval):
        wanted = "a number of steps" if by_steps else "1.0, the end of an epoch,"
        raise ConfigError(f"trainer.val_check_interval must be {wanted} {counts}, got {trainer.val_check_interval!r}")
    check_precision(trainer, on_gpus=trainer.accelerator != "cpu")
    if not COUNT.allows(n_nodes := trainer.get("num_nodes", 1)):
        raise ConfigError(f"trainer.num_nodes must be {COUNT.wanted}, got {n_nodes!r}")
    if trainer.devices != "auto" and cfg.dataset.batch_size % (n := trainer.devices * n_nodes):
        raise ConfigError(
            f"dataset.batch_size must be divisible by trainer.devices = {n} (of all machines), which "
            f"share each batch, got {cfg.dataset.batch_size}"
        )
    if trainer[other] != -1:
        raise ConfigError(f"trainer.{other} must be -1 {counts}, got {trainer[other]}")
    if trainer[length] < 1 or trainer[length] % trainer[every]:
        raise ConfigError(
            f"trainer.{length} must be a positive multiple of trainer.{every} = {trainer[every]}, so that training "
            f"ends on a rollout evaluation, got {trainer[length]}"
        )
    needless = () if "env" not in cfg or has_env(cfg.env) else ROLLS_OUT
    for name in ("rollout", "curve", "last"):
        if cfg.callbacks.get(name) is None and name not in needless:
            raise ConfigError(f"callbacks.{name} must be set; results are made from it. Only best and ema may be null")
    reported = cfg.get("evaluation", {}).get("reported_checkpoint")
    if reported == "best" and cfg.callbacks.get("best") is None and not needless:
        raise ConfigError("evaluation.reported_checkpoint must be last where callbacks.best=null, got best")
    rounds = cfg.imitation.get("rounds", 0)
    if rounds:
        _check_rounds(trainer, rounds)


def _check_rounds(trainer: DictConfig, rounds: int) -> None:
    """Check that rounds start at rollout evaluations and that one process trains."""
    why = "where imitation.rounds is above 0"
    if (n_nodes := trainer.get("num_nodes", 1)) != 1:
        raise ConfigError(f"trainer.num_nodes must be 1 {why}, got {n_nodes}")
    if trainer.devices != 1:
        raise ConfigError(f"trainer.devices must be 1 {why}, got {trainer.devices}")
    if trainer.check_val_every_n_epoch is not None:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch must be null {why}, since rounds start at training steps, "
            f"got {trainer.check_val_every_n_epoch}"
        )
    multiple = (rounds + 1) * trainer.val_check_interval
    if trainer.max_steps % multiple:
        raise ConfigError(
            f"trainer.max_steps must be a multiple of (imitation.rounds + 1) · trainer.val_check_interval = {multiple}"
            f", so that rounds start at evaluations, got {trainer.max_steps}"
        )


def check_search(search: DictConfig) -> None:
    """Raise ConfigError unless a search has at least 3 training seeds, and other seeds to judge the winner on."""
    found = schema_of("search", search)
    complete(found, search)
    check(found, search, prefix="search")
    if len(set(search.seeds)) < max(3, len(search.seeds)):
        raise ConfigError(f"search.seeds must be at least 3 different seeds, got {list(search.seeds)}")
    fresh = set(search.fresh_seeds) - set(search.seeds)
    if not fresh or len(fresh) < len(search.fresh_seeds):
        raise ConfigError(
            f"search.fresh_seeds must be different seeds, none of search.seeds = {list(search.seeds)}, "
            f"got {list(search.fresh_seeds)}"
        )


def _checked_name(name: str) -> str:
    """Return a run's name. Raise ConfigError, before Hydra makes its folder, if it cannot be a folder's name."""
    if not FOLDER.allows(name):
        raise ConfigError(f"run_name must be {FOLDER.wanted}, got {name!r}")
    return name


def _checked_outputs(outputs: Any) -> str:
    """Return `outputs`. Raise ConfigError, before Hydra makes folders in it, if it cannot be written to."""
    if not TEXT.allows(outputs):
        raise ConfigError(f"outputs must be {TEXT.wanted}, got {outputs!r}")
    check_writable(outputs)
    return str(outputs)


def _run_hash(*, _root_: DictConfig) -> str:
    """Return the hash in a run's name, which Hydra resolves first. Raise ConfigError if the config is invalid."""
    try:
        return training_hash(_root_)
    except ConfigError:
        raise
    except Exception:  # the config is invalid, and the check says why
        groups = [key for key in (*GROUPS, "callbacks", "evaluation", "seed", "threads") if key in _root_]
        cfg = OmegaConf.masked_copy(_root_, groups)
        with open_dict(cfg):
            cfg.run_name = "unnamed"
        check_config(cfg)
        raise


OmegaConf.register_new_resolver("checked_name", _checked_name, replace=True)
OmegaConf.register_new_resolver("checked_outputs", _checked_outputs, replace=True)
OmegaConf.register_new_resolver("run_hash", _run_hash, use_cache=False, replace=True)


def hints(cfg: DictConfig, choices: Mapping[str, Any]) -> list[str]:
    """Return advice on a config that is valid but may not be what was meant.

    Args:
        choices: the chosen option of each group.
    """
    advice, option, env = [], str(choices.get("env")), cfg.env
    if _own_id(env.id, option) != env.id:
        own = load_option("env", option)
        rules = ("success_return", "crash_reward", "gate", "heuristic")
        kept = [f"{key}={env[key]}" for key in rules if env[key] is not None and env[key] == own[key]]
        if kept:
            advice.append(f"env.id={env.id} keeps {', '.join(kept)} of env={option}; env=gymnasium has no such rules")
    if not has_env(env):
        unused = {"evaluation": common_keys("evaluation"), "callbacks.rollout": named("callbacks", "rollout")}
        for prefix, found in unused.items():
            given = OmegaConf.select(cfg, f"{prefix}.n_episodes")
            if found is not None and given not in (None, found.defaults["n_episodes"]):
                advice.append(f"{prefix}.n_episodes={given} has no effect where env=none: nothing is rolled out")
    trains_expert = "total_steps" in cfg.expert  # as those of the experiments do
    if trains_expert and not choices.get("experiment"):
        # experiments that are named like an environment are about nothing else
        for name in sorted({*options_of("experiment")} & {*options_of("env")}):
            suited = load_option("env", name)
            same = (suited["id"], suited.get("wrappers", {})) == (env.id, plain(env.wrappers))
            if same and choices_of(name)["expert"] != choices.get("expert", "ppo"):
                advice.append(f"experiment={name} has settings that suit env.id={env.id}")
    return advice


def _own_id(env_id: str, option: str) -> str:
    """Return the id that an option of `env` describes; `env_id` if the option is the user's own."""
    try:
        return str(load_option("env", option).get("id"))
    except ConfigError:
        return env_id


def _env_name(env_id: str, option: str) -> str:
    """Return the environment's part of a run's name: the option, or the id if it is not the option's."""
    if not TEXT.allows(env_id):
        raise ConfigError(f"env.id must be {TEXT.wanted}, got {env_id!r}")
    return option if _own_id(env_id, option) == env_id else env_id.rpartition(":")[2].rpartition("/")[2]


OmegaConf.register_new_resolver("env_name", _env_name, replace=True)
OmegaConf.register_new_resolver("teacher", lambda expert, demos: demos if expert == "none" else expert, replace=True)
OmegaConf.register_new_resolver("unless_bc", lambda name: "" if name == "bc" else f"-{name}", replace=True)
OmegaConf.register_new_resolver(
    "divide", lambda number, by: max(int(number) // by, 1) if COUNT.allows(by) else 1, replace=True
)  # an invalid divisor is reported by its own key's check
OmegaConf.register_new_resolver(
    "times", lambda number, by: int(number) * by if isinstance(by, int) else 0, replace=True
)
