"""What a config may hold: one rule per key, and the few that concern several keys. Nothing heavy is imported here."""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

BLOCKS = ("demonstrations", "validation", "selection", "test")

NOT_OF_THE_RUN = ("hydra", "outputs", "run_name", "resume", "logger", "threads", "processes", "search")
"""Top-level keys that do not change what a run computes, so not its name either."""


class ConfigError(ValueError):
    """A key has a value that is not allowed."""


@dataclass(frozen=True)
class Rule:
    """What one key may hold.

    Attributes:
        allows: whether a value is allowed.
        wanted: the rest of the sentence "<key> must be …".
    """

    allows: Callable[[Any], bool]
    wanted: str

    def or_null(self) -> "Rule":
        """The same, or null."""
        return Rule(lambda value: value is None or self.allows(value), f"{self.wanted}, or null")


def integer(least: int, most: float = math.inf) -> Rule:
    """A whole number in a range."""
    wanted = f"an integer of at least {least}" if most == math.inf else f"an integer from {least} to {most}"
    return Rule(lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most, wanted)


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """A finite number in a range; `above` and `below` take its ends away."""
    bounds = []
    if least > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {least:g}")
    if most < math.inf:
        bounds.append(f"{'below' if below else 'at most'} {most:g}")

    def allows(v: Any) -> bool:
        if isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v):
            return False
        return (v > least if above else v >= least) and (v < most if below else v <= most)

    return Rule(allows, " ".join(["a number", " and ".join(bounds)]).strip())


def one_of(*values: Any) -> Rule:
    """One of these."""
    return Rule(lambda v: v in values and type(v) in {type(w) for w in values}, f"one of {list(values)}")


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list of such values."""

    def allows(v: Any) -> bool:
        return isinstance(v, ListConfig | list) and (length is None or len(v) == length) and all(map(rule.allows, v))

    return Rule(allows, f"a list of {'' if length is None else f'{length} values, each '}{rule.wanted}")


BOOLEAN = Rule(lambda v: isinstance(v, bool), "true or false")
TEXT = Rule(lambda v: isinstance(v, str) and v != "", "text")
NAME = Rule(
    lambda v: isinstance(v, str) and re.fullmatch(r"[\w-]+", v) is not None, "a name of letters, digits, _ and -"
)
MAPPING = Rule(lambda v: isinstance(v, DictConfig), "a mapping")
FRACTION = number(0, 1)
PROBABILITY = number(0, 1, below=True)
COUNT = integer(1)

RULES: Mapping[str, Rule] = {
    "seed": integer(0),
    "outputs": TEXT,
    "run_name": TEXT,
    "resume": BOOLEAN,
    "n_envs": COUNT,
    "threads": COUNT.or_null(),
    "processes": COUNT.or_null(),
    "env.id": TEXT,
    "env.kwargs": MAPPING,
    "env.wrappers": MAPPING,
    "env.success_return": number(),
    "env.crash_reward": number().or_null(),
    "env.heuristic": TEXT.or_null(),
    **{f"env.seed_blocks.{block}": list_of(integer(0), 2) for block in BLOCKS},
    "expert.name": NAME,
    "expert.policy": one_of("actor", "heuristic", "random"),
    "expert.gate": number().or_null(),
    "expert.observes": one_of("student", "privileged"),
    "expert.deterministic": BOOLEAN,
    "expert.seed": integer(0),
    "expert.selection_episodes": COUNT,
    "expert.gate_episodes": COUNT,
    "expert.training.total_steps": COUNT,
    "expert.training.score_every": COUNT,
    "expert.training.hidden": list_of(COUNT),
    "expert.training.n_envs": COUNT,
    "expert.training.n_steps": COUNT,
    "expert.training.batch_size": integer(2),
    "expert.training.n_epochs": COUNT,
    "expert.training.critic_epochs": COUNT,
    "expert.training.gamma": FRACTION,
    "expert.training.gae_lambda": FRACTION,
    "expert.training.ent_coef": number(0),
    "expert.training.learning_rate": number(0, above=True),
    "expert.training.final_learning_rate_fraction": FRACTION,
    "expert.training.max_grad_norm": number(0, above=True),
    "expert.training.normalize_observations": BOOLEAN,
    "expert.training.normalize_rewards": BOOLEAN,
    "demos.n_episodes": COUNT,
    "demos.n_validation_episodes": COUNT,
    "demos.filters.min_return": number().or_null(),
    "demos.filters.drop_truncated": BOOLEAN,
    "dataset.context_length": COUNT,
    "dataset.stride": COUNT,
    "dataset.tokens": one_of("states_actions", "states"),
    "dataset.episodes": Rule(
        lambda v: COUNT.allows(v) or (isinstance(v, float) and 0 < v <= 1),
        "a number of episodes (an integer of at least 1) or a fraction of them (above 0.0, at most 1.0)",
    ),
    "dataset.batch_size": COUNT,
    "imitation.name": one_of("clone", "dart", "dagger"),
    "imitation.rounds": integer(0),
    "imitation.initial_fraction": number(0, 1, above=True),
    "imitation.beta": FRACTION,
    "model.n_layer": COUNT,
    "model.n_head": COUNT,
    "model.d_model": COUNT,
    "model.attention": one_of("banded", "full"),
    "model.dropout": PROBABILITY,
    "model.positions": one_of("rotary", "learned", "none"),
    "model.action_dropout": FRACTION,
    "optimizer.learning_rate": number(0, above=True),
    "optimizer.betas": list_of(PROBABILITY, 2),
    "optimizer.weight_decay": number(0),
    "optimizer.warmup_fraction": PROBABILITY,
    "optimizer.final_learning_rate_fraction": FRACTION,
    "trainer.accelerator": one_of("auto", "cpu", "gpu"),
    "trainer.devices": Rule(lambda v: COUNT.allows(v) or v == "auto", "an integer of at least 1, or auto (all GPUs)"),
    "trainer.precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "trainer.max_steps": integer(-1),
    "trainer.max_epochs": integer(-1),
    "trainer.val_check_interval": Rule(
        lambda v: COUNT.allows(v) or (isinstance(v, float) and v == 1.0),
        "an integer of at least 1 (steps), or 1.0 (the end of an epoch)",
    ),
    "trainer.check_val_every_n_epoch": COUNT.or_null(),
    "trainer.log_every_n_steps": COUNT,
    "trainer.gradient_clip_val": number(0, above=True).or_null(),
    "callbacks.rollout.n_episodes": COUNT,
    "callbacks.ema.decay": PROBABILITY,
    "evaluation.n_episodes": COUNT,
    "evaluation.reported_checkpoint": one_of("last", "best"),
    "evaluation.context_length": COUNT.or_null(),
    "evaluation.deterministic": BOOLEAN,
    "evaluation.video": BOOLEAN,
    "search.study_name": NAME,
    "search.n_trials": COUNT,
    "search.trials_at_once": COUNT,
    "search.sampler": one_of("tpe", "random"),
    "search.startup_trials": COUNT,
    "search.pruning": BOOLEAN,
    "search.seed": integer(0),
    "search.seeds": list_of(integer(0)),
    "search.fresh_seeds": list_of(integer(0)),
    "search.trial": integer(0).or_null(),
    "search.space": MAPPING.or_null(),
    "run": Rule(TEXT.allows, "the folder of a finished run, such as outputs/runs/NAME"),
    "runs": Rule(TEXT.allows, "a folder that holds finished runs, such as outputs/multirun/NAME"),
    "example": TEXT.or_null(),
    "videos": BOOLEAN,
    "seeds": Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as test:1000"),
    "name": NAME,
    "policies": Rule(
        lambda v: MAPPING.allows(v) and len(v) > 0 and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
        "a mapping from names to policies, such as +policies.student=outputs/runs/NAME",
    ),
    "reference": NAME.or_null(),
    "subsets": Rule(
        lambda v: MAPPING.allows(v) and all(NAME.allows(k) and TEXT.allows(v[k]) for k in v),
        "a mapping from names to FACT:LOW:HIGH, such as +subsets.windy=wind_power:0.75:1",
    ),
    "video": list_of(NAME).or_null(),
    "fit_seeds": Rule(TEXT.allows, "BLOCK:COUNT or BLOCK:OFFSET:COUNT, such as selection:1000"),
    "other": TEXT.or_null(),
    "steps": list_of(integer(0)),
    "deterministic": BOOLEAN,
    "checkpoint": one_of("last", "best").or_null(),
    "context_length": COUNT.or_null(),
    "project": TEXT,
    "entity": TEXT.or_null(),
    "dry_run": BOOLEAN,
    "kind": one_of("runs", "experts", "demos", "rounds", "references", "comparisons").or_null(),
    "yes": BOOLEAN,
    "hours": number(0),
}


COMPLETE = ("env", "demos", "dataset", "model", "optimizer", "trainer", "evaluation", "search")
"""Groups of which every key must be there: a missing one is an error, and never read as None."""


STRICT = ("env", "demos", "dataset", "imitation", "model", "optimizer", "evaluation", "search")
"""Groups that take no key but those with a rule. The others hand theirs on: to Lightning, W&B, an expert's training."""


def check_config(cfg: DictConfig) -> None:
    """Raise ConfigError, naming the key, the value and what is allowed, if the config cannot be worked with."""
    _refuse_unknown_keys(cfg)
    for key, rule in RULES.items():
        if "." not in key and OmegaConf.is_missing(cfg, key):
            raise ConfigError(f"{key} must be given; it must be {rule.wanted}")
        if key.split(".")[0] in COMPLETE and key.split(".")[0] in cfg and not _has(cfg, key):
            raise ConfigError(f"{key} is missing; it must be {rule.wanted}")
        if _has(cfg, key) and not rule.allows(value := OmegaConf.select(cfg, key)):
            raise ConfigError(f"{key} must be {rule.wanted}, got {value!r}")
    if _has(cfg, "env.seed_blocks"):
        _check_seeds(cfg)
    if _has(cfg, "model.d_model"):
        _check_model(cfg)
    if _has(cfg, "trainer.max_steps"):
        _check_trainer(cfg)
        for name in ("rollout", "curve", "best", "last"):
            if cfg.callbacks.get(name) is None:
                raise ConfigError(f"callbacks.{name} must be there; results are made from it. Only ema may be null")
        _check_imitation(cfg)
    if _has(cfg, "search.seeds"):
        _check_search(cfg.search)


def _refuse_unknown_keys(cfg: DictConfig) -> None:
    """A key that was added with + and that nothing reads is a slip of the pen."""
    known = {key.split(".")[0] for key in RULES} | {"hydra", "logger", "callbacks"}
    found = {str(key): known for key in cfg}
    for group in STRICT:
        allowed = {key for key in RULES if key.startswith(f"{group}.")} | {f"{group}._target_", f"{group}.seed_blocks"}
        nested = {key.rsplit(".", 1)[0] for key in allowed}
        found |= {f"{group}.{key}": allowed | nested for key in cfg.get(group, {})}
    for key, allowed in found.items():
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1)
            raise ConfigError(f"{key} is not a key{f'; did you mean {close[0]}?' if close else ''}")


def check_disjoint(seed_blocks: Mapping[Any, Any]) -> None:
    """Raise ConfigError if two blocks, each `[first seed, number of seeds]`, share a seed."""
    spans = sorted((first, first + count, name) for name, (first, count) in seed_blocks.items())
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise ConfigError(
                f"env.seed_blocks must be disjoint, but {name} and {other} overlap: {other} must begin at {end} or "
                f"later, got {start}"
            )


def _check_seeds(cfg: DictConfig) -> None:
    check_disjoint(cfg.env.seed_blocks)
    wanted = {
        "demos.n_episodes": "demonstrations",
        "demos.n_validation_episodes": "validation",
        "callbacks.rollout.n_episodes": "selection",
        "evaluation.n_episodes": "test",
    }
    for key, block in wanted.items():
        held = cfg.env.seed_blocks[block][1]
        if _has(cfg, key) and OmegaConf.select(cfg, key) > held:
            raise ConfigError(
                f"{key} must be at most {held}, the seeds that env.seed_blocks.{block} holds, "
                f"got {OmegaConf.select(cfg, key)}"
            )
    if not _has(cfg, "expert.selection_episodes"):
        return
    selection, held = cfg.expert.selection_episodes + cfg.expert.gate_episodes, cfg.env.seed_blocks.selection[1]
    if selection > held:
        raise ConfigError(
            f"expert.selection_episodes + expert.gate_episodes must be at most {held}, the seeds that "
            f"env.seed_blocks.selection holds, got {selection}"
        )


def _check_model(cfg: DictConfig) -> None:
    model, dataset = cfg.model, cfg.dataset
    if model.d_model % model.n_head:
        raise ConfigError(f"model.d_model must be divisible by model.n_head = {model.n_head}, got {model.d_model}")
    if model.positions == "rotary" and model.d_model // model.n_head % 2:
        raise ConfigError(
            f"model.d_model / model.n_head must be even for model.positions=rotary, got {model.d_model // model.n_head}"
        )
    if dataset.stride > dataset.context_length:
        raise ConfigError(
            f"dataset.stride must be at most dataset.context_length = {dataset.context_length}, or steps would be "
            f"skipped, got {dataset.stride}"
        )
    if isinstance(dataset.episodes, int) and dataset.episodes > cfg.demos.n_episodes:
        raise ConfigError(
            f"dataset.episodes must be at most demos.n_episodes = {cfg.demos.n_episodes}, got {dataset.episodes}"
        )
    context_length = cfg.evaluation.context_length
    if context_length is not None and context_length > dataset.context_length:
        raise ConfigError(
            f"evaluation.context_length must be at most dataset.context_length = {dataset.context_length}, "
            f"got {context_length}"
        )


def _check_trainer(cfg: DictConfig) -> None:
    """Training counts steps or epochs, and ends on a rollout evaluation, whose weights are the last ones."""
    trainer = cfg.trainer
    by_steps = trainer.check_val_every_n_epoch is None
    counts = f"where trainer.check_val_every_n_epoch is {'null' if by_steps else 'set'}"
    length, other = ("max_steps", "max_epochs") if by_steps else ("max_epochs", "max_steps")
    every = "val_check_interval" if by_steps else "check_val_every_n_epoch"
    if by_steps != COUNT.allows(trainer.val_check_interval):
        wanted = "a number of steps" if by_steps else "1.0, the end of an epoch,"
        raise ConfigError(f"trainer.val_check_interval must be {wanted} {counts}, got {trainer.val_check_interval!r}")
    if trainer.get("accumulate_grad_batches", 1) != 1:
        raise ConfigError("trainer.accumulate_grad_batches must be 1: a resumed run finds its batches by their step")
    if not COUNT.allows(n_nodes := trainer.get("num_nodes", 1)):
        raise ConfigError(f"trainer.num_nodes must be {COUNT.wanted}, got {n_nodes!r}")
    if trainer.devices != "auto":
        check_shares(cfg.dataset.batch_size, trainer.devices * trainer.get("num_nodes", 1))
    if trainer[other] != -1:
        raise ConfigError(f"trainer.{other} must be -1 {counts}, got {trainer[other]}")
    if trainer[length] < 1 or trainer[length] % trainer[every]:
        raise ConfigError(
            f"trainer.{length} must be a positive multiple of trainer.{every} = {trainer[every]}, so that training "
            f"ends on a rollout evaluation, got {trainer[length]}"
        )


def _check_imitation(cfg: DictConfig) -> None:
    """Each way of imitating has its own keys, and a round begins at a rollout evaluation."""
    for key in ("name", "rounds", "initial_fraction", "beta"):
        wanted = key != "beta" or cfg.imitation.name == "dagger"
        if wanted != (key in cfg.imitation):
            raise ConfigError(f"imitation.{key} {'is missing' if wanted else 'is only for imitation=dagger'}")
    name, rounds, initial_fraction = (cfg.imitation[key] for key in ("name", "rounds", "initial_fraction"))
    if name == "clone":
        if rounds or initial_fraction != 1:
            raise ConfigError(
                f"imitation.rounds must be 0 and imitation.initial_fraction 1.0 for imitation=clone, got {rounds} and "
                f"{initial_fraction}; imitation=dart and imitation=dagger have rounds"
            )
        return
    if rounds < 1 or initial_fraction >= 1:
        raise ConfigError(
            f"imitation.rounds must be at least 1 and imitation.initial_fraction below 1 for imitation={name}, "
            f"got {rounds} and {initial_fraction}; imitation=clone does without rounds"
        )
    if (n_nodes := cfg.trainer.get("num_nodes", 1)) != 1:
        raise ConfigError(f"trainer.num_nodes must be 1 for imitation={name}, got {n_nodes}")
    if cfg.trainer.devices != 1:
        raise ConfigError(f"trainer.devices must be 1 for imitation={name}, got {cfg.trainer.devices}")
    if cfg.trainer.check_val_every_n_epoch is not None:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch must be null for imitation={name}, whose rounds begin at training steps, "
            f"got {cfg.trainer.check_val_every_n_epoch}"
        )
    multiple = (rounds + 1) * cfg.trainer.val_check_interval
    if cfg.trainer.max_steps % multiple:
        raise ConfigError(
            f"trainer.max_steps must be a multiple of (imitation.rounds + 1) · trainer.val_check_interval = {multiple}"
            f", so that rounds begin at evaluations, got {cfg.trainer.max_steps}"
        )


def _check_search(search: DictConfig) -> None:
    """One training seed says little, and the winner must not be judged by those that it was chosen by."""
    if len(set(search.seeds)) < max(3, len(search.seeds)):
        raise ConfigError(f"search.seeds must be at least 3 different seeds, got {list(search.seeds)}")
    fresh = set(search.fresh_seeds) - set(search.seeds)
    if not fresh or len(fresh) < len(search.fresh_seeds):
        raise ConfigError(
            f"search.fresh_seeds must be different seeds, none of search.seeds = {list(search.seeds)}, "
            f"got {list(search.fresh_seeds)}"
        )


def check_shares(batch_size: int, n_ranks: int) -> None:
    """Raise ConfigError if processes that learn together cannot have equal shares of a batch."""
    if batch_size % n_ranks:
        raise ConfigError(
            f"dataset.batch_size must be divisible by trainer.devices = {n_ranks} (of all machines), which "
            f"share each batch, got {batch_size}"
        )


def parse_seeds(text: str, blocks: Mapping[str, Any], key: str = "seeds") -> tuple[str, int, int]:
    """`test:1000` or `test:500:1000` (block, offset, count) to (block, offset, count). ConfigError names the key."""
    allowed = f"BLOCK:COUNT or BLOCK:OFFSET:COUNT with one of {sorted(blocks)}, such as test:1000"
    block, *numbers = text.split(":")
    if block not in blocks or not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers):
        raise ConfigError(f"{key} must be {allowed}, got {text!r}")
    offset, count = (0, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))
    if count < 1 or offset + count > blocks[block][1]:
        raise ConfigError(f"{key} must stay in env.seed_blocks.{block}, which holds {blocks[block][1]}, got {text!r}")
    return block, offset, count


def parse_subset(key: str, text: str) -> tuple[str, float, float]:
    """`wind_power:0.75:1` to (fact, lowest quantile, highest quantile). ConfigError names the key."""
    fact, *bounds = text.split(":")
    try:
        low, high = map(float, bounds)
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise ConfigError(
            f"{key} must be FACT:LOW:HIGH with two quantiles from 0 to 1, such as wind_power:0.75:1 for the quarter of "
            f"episodes with most of it, got {text!r}"
        )
    return fact, low, high


def run_config(cfg: DictConfig) -> dict[str, Any]:
    """What decides a run's numbers, resolved, as plain containers."""
    return {
        str(key): OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in cfg
        if key not in NOT_OF_THE_RUN
    }


def config_hash(config: Any) -> str:
    """Ten hexadecimal digits of the SHA-256 of a plain container's canonical JSON."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _has(cfg: DictConfig, key: str) -> bool:
    """Whether the config has this key, with any value."""
    *path, last = key.split(".")
    node: Any = cfg
    for part in path:
        if not isinstance(node, DictConfig) or part not in node or node[part] is None:
            return False
        node = node[part]
    return isinstance(node, DictConfig) and last in node


OmegaConf.register_new_resolver(
    "unless_clone", lambda name: "" if name == "clone" else f"-{name}", use_cache=False, replace=True
)
OmegaConf.register_new_resolver(
    "run_hash", lambda *, _root_: config_hash(run_config(_root_)), use_cache=False, replace=True
)
OmegaConf.register_new_resolver("divide", lambda number, by: max(int(number) // int(by), 1), replace=True)
