"""The Python API: the commands as functions, exported by `ilt`.

Functions take the settings of the commands as keyword arguments: each config group by the name of an option or as a
mapping (`model="tiny"`, `optimizer={"learning_rate": 1e-3}`). Results go to the same store, under the same names.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from omegaconf import DictConfig, OmegaConf

from ilt import pipeline
from ilt.data.episodes import Episodes
from ilt.data.sources import check_fits, recorded_spaces, warn_of_units
from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.evaluation.comparison import ALL, compare_policies, decided
from ilt.evaluation.saved_policies import read_policy
from ilt.evaluation.sequential import Decision, decide_in_batches
from ilt.evaluation.statistics import is_noninferior, summarize
from ilt.experts.find import LoadedExpert, find_or_train, load
from ilt.experts.gate import check_gate
from ilt.registry import load_option, merge, options_of
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import FunctionPolicy, Policy
from ilt.rollout.recorded import RANDOM, Context
from ilt.rollout.run import limited_threads
from ilt.schema import ConfigError, check, config_hash, named, path_of, plain
from ilt.settings import check_config, parse_seeds, run_config, training_config
from ilt.tracking.loggers import JobInfo, open_run
from ilt.tracking.run_folder import RunFolder, read_results
from ilt.tracking.store import Artifact, Store

DEFAULTS = {
    "env": "gymnasium", "expert": "random", "demos": "expert", "dataset": "windows", "head": "auto", "imitation": "bc",
    "model": "tiny", "optimizer": "adamw", "trainer": "cpu", "callbacks": "default", "evaluation": "default",
}  # fmt: skip


_FILES = {"path": "demonstrations", "validation_path": "validation"}
"""The block of each path of `demos=file`."""


@dataclass(frozen=True)
class Demonstrations:
    """The episodes that a student learns from.

    Attributes:
        episodes: the training episodes.
        validation: episodes that are never trained on.
        expert: the expert that collected them, if known.
    """

    episodes: Episodes
    validation: Episodes
    expert: LoadedExpert | None = None

    def __len__(self) -> int:
        return len(self.episodes)


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        path: the run's folder, which `ilt evaluate`, `compare`, `probe` and `report` accept.
        results: the content of the run's `results.json`.
        policy: the student that was scored.
    """

    path: Path
    results: Mapping[str, Any] = field(repr=False)
    policy: Policy = field(repr=False)


def make_env(
    id: str, *, wrappers: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] = (), **settings: Any
) -> EnvSpec:
    """Describe an environment: an option of `conf/env`, or anything that Gymnasium can make.

    Raise ConfigError if the environment cannot be made or its spaces are not supported.

    Args:
        id: the name of an option, such as `lunar_lander_hidden`; a Gymnasium id; or `module:Name-v0`.
        wrappers: mappings of a `_target_` and its arguments, innermost wrapper first; by name as in a config, or in a
            list.
        settings: other keys of the config's `env`, such as `kwargs` and `success_return`.

    Example:
        ```python
        env = ilt.make_env("lunar_lander_hidden")
        pendulum = ilt.make_env("Pendulum-v1", success_return=-200.0)
        hide = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1, 3]}
        cartpole = ilt.make_env("CartPole-v1", wrappers=[hide])
        ```
    """
    values = load_option("env", id) if id in options_of("env") else {**load_option("env", "gymnasium"), "id": id}
    if wrappers:
        by_name = wrappers if isinstance(wrappers, Mapping) else {f"wrapper_{i}": w for i, w in enumerate(wrappers)}
        settings["wrappers"] = dict(by_name)
    values = merge(values, settings)
    check_config(OmegaConf.create({"env": values}), "expert", partial=True)
    spec = EnvSpec.from_config(values)
    _ = spec.action_space  # makes one environment, so that errors are raised here
    return spec


@limited_threads(1)  # batches are small, so more threads would only wait for each other
def load_expert(
    expert: str | Path | Policy | Callable[[np.ndarray], np.ndarray],
    env: EnvSpec,
    *,
    outputs: str | Path = "outputs",
    deterministic: bool = True,
    privileged: bool = False,
    **settings: Any,
) -> LoadedExpert:
    """Load an expert: a shipped or trained one, a Stable-Baselines3 file, a function, or a policy.

    Args:
        expert: an option of `conf/expert` such as `ppo`, which is trained if the store has none (`train=False` raises
            ConfigError instead); the path of a zip file saved by Stable-Baselines3; a function from observations
            (n, obs_dim) to n actions; or a `Policy`.
        env: the environment that it acts in.
        outputs: folder of the store.
        deterministic: whether it takes its most likely action instead of sampling.
        privileged: whether it sees what the environment hides from students.
        settings: other keys of the config's `expert`, such as `total_steps` and `gate`. A function or a policy has no
            settings and no gate.

    Returns:
        the expert, which `collect`, `train`, `evaluate` and `compare` accept.

    Raises:
        ConfigError: a setting is not valid.
        GateError: the expert does not pass its gate.

    Example:
        ```python
        env = ilt.make_env("lunar_lander")
        shipped = ilt.load_expert("ppo", env)
        from_sb3 = ilt.load_expert("lander.zip", env, gate=200.0)  # a file saved by Stable-Baselines3
        idle = ilt.load_expert(lambda observations: np.zeros(len(observations), int), env)
        # an expert of the lander, in a variant without velocities
        blind = ilt.make_env("lunar_lander_blind")
        teacher = ilt.load_expert("saved", blind, path="ppo-091d97b2b3", privileged=True)
        ```
    """
    if isinstance(expert, Policy) or callable(expert):
        if settings:
            raise ConfigError(f"{next(iter(settings))} is not a setting of a function or policy")
        policy: Policy = (
            expert if isinstance(expert, Policy) else FunctionPolicy(expert, env.action_space, privileged=privileged)
        )
        name = getattr(expert, "__name__", type(expert).__name__)
        identity = ["handed in", name, uuid4().hex]
        return LoadedExpert(
            policy=policy, name=re.sub(r"\W", "_", name), identity=identity, deterministic=deterministic
        )
    option, given = str(expert), {"deterministic": deterministic, **settings}
    if option not in options_of("expert"):
        if not Path(option).is_file():
            raise ConfigError(f"expert must be one of {options_of('expert')} or a file, got {option}")
        given = {"name": re.sub(r"[^\w-]", "_", Path(option).stem), "path": option, **given}
        option = "sb3"
    if privileged:
        given["privileged"] = True
    config = OmegaConf.create({"env": _env_config(env), "expert": merge(load_option("expert", option), given)})
    check_config(config, "expert", partial=True)
    ctx = _context(env, outputs)
    artifact = find_or_train(ctx, config.expert)
    check_gate(artifact, gate=config.expert.gate, deterministic=deterministic)
    return load(ctx, config.expert, artifact)


@limited_threads(1)
def collect(
    expert: LoadedExpert,
    env: EnvSpec,
    *,
    n_episodes: int = 1000,
    n_validation_episodes: int | None = None,
    outputs: str | Path = "outputs",
) -> Demonstrations:
    """Collect an expert's episodes on the first seeds of the demonstrations and validation blocks.

    Repeating the call loads the episodes from the store. A function or a policy has no identity, so each `load_expert`
    of it counts as a new expert.

    Args:
        expert: the expert, from `load_expert`.
        env: the environment that it acts in.
        n_episodes: training episodes, one per seed.
        n_validation_episodes: validation episodes, one per seed; None for a tenth of `n_episodes`.
        outputs: folder of the store.

    Example:
        ```python
        demos = ilt.collect(expert, env, n_episodes=100)
        print(len(demos), demos.episodes.returns.mean())
        demos.episodes.save(Path("demonstrations.npz"))
        ```
    """
    ctx = _context(env, outputs)
    counts = {"demonstrations": n_episodes, "validation": n_validation_episodes or max(n_episodes // 10, 1)}
    found = [ctx.find_or_rollout(expert, env.seeds(block, n)) for block, n in counts.items()]
    episodes, validation = (Episodes.load(each.file("episodes.npz")) for each in found)
    return Demonstrations(episodes, validation, expert)


@limited_threads(1)
def train(
    demos: Demonstrations | Episodes,
    *,
    env: EnvSpec | None,
    model: str | Mapping[str, Any] = "tiny",
    context_length: int = 8,
    expert: LoadedExpert | None = None,
    seed: int = 0,
    max_steps: int = 800,
    outputs: str | Path = "outputs",
    logger: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Run:
    """Train a student on demonstrations, and score it on test seeds together with its expert and the random policy.

    Repeating the call loads the finished run or resumes an interrupted one. The exception is training in rounds, such
    as DAgger, with a function as the expert, because a function has no identity.

    Args:
        demos: demonstrations from `collect`, or any episodes, of which the last tenth is kept for validation.
        env: the environment that the student acts in to be scored; None for none, so that the results have validation
            metrics alone.
        model: an option of `conf/model`, or a mapping with a `_target_`.
        context_length: K, the longest window in steps.
        expert: the expert that the student is compared with and that labels rounds of DAgger; None for the expert of
            the demonstrations, if they have one.
        seed: the training seed.
        max_steps: training steps, rounded down to a multiple of four, with four rollout evaluations.
        outputs: folder of the store and of the run's folder.
        logger: a mapping, as the config's `logger`; None for no logger.
        settings: other groups of the config: the name of an option, a mapping of keys, or a tuple of both, such as
            `imitation="dagger"`, `optimizer={"learning_rate": 1e-3}`, `evaluation={"n_episodes": 200}`.

    Returns:
        the finished run, with its results and the student as a policy.

    Raises:
        ConfigError: a setting is not valid, or the demonstrations do not fit the environment.

    Example:
        ```python
        run = ilt.train(demos, env=env, model="mini", context_length=32, imitation="dagger", seed=1)
        print(run.path, run.results["return_mean"], run.results["expert_return_mean"])
        lstm = ilt.train(demos, env=env, model={"_target_": "my_lab.LSTM", "width": 64})
        ```
    """
    started, acts_in = time.monotonic(), env
    if env is None:
        if expert is not None:
            raise ConfigError(
                f"expert must be None where env is None, since there is nothing to act in, got {expert.name}"
            )
        parts = [demos] if isinstance(demos, Episodes) else [demos.episodes, demos.validation]
        env = EnvSpec(id=NO_ENV, spaces=recorded_spaces(parts))
    if isinstance(demos, Episodes):
        warn_of_units(demos, env, source="demos")
        n = max(len(demos) // 10, 1)
        demos = Demonstrations(demos.first(len(demos) - n), demos.select(np.arange(len(demos) - n, len(demos))))
    for each in (demos.episodes, demos.validation):
        check_fits(each, env, source="demos")
    ctx = _context(env, outputs)
    expert = expert or (demos.expert if env.simulated else None)
    every = max(max_steps // 4, 1)
    student = model if isinstance(model, str) else str(model.get("_target_", "")).rpartition(".")[2]
    presets: dict[str, Any] = {
        "dataset": {"context_length": context_length},
        "evaluation": {"video": False},
        "trainer": {"max_steps": 4 * every, "val_check_interval": every},
    }
    demos_artifact = _keep(ctx, demos)
    if expert is None:
        files = {key: str(demos_artifact.file(f"{block}.npz")) for key, block in _FILES.items()}
        presets |= {"expert": load_option("expert", "none"), "demos": {**load_option("demos", "file"), **files}}
    elif expert.artifact is not None:  # lets commands that read the run's folder find the expert
        presets["expert"] = {**expert.artifact.manifest["expert"], "deterministic": expert.deterministic}
    cfg = _compose(env, seed, outputs, presets, {"model": model, **settings})
    asked = expert.identity if expert is not None and cfg.imitation.get("rounds", 0) else None
    identity = {**training_config(cfg), "demos": demos_artifact.name, "expert": asked}
    env_name, k = env.id.rpartition("/")[2].rpartition(":")[2], cfg.dataset.context_length
    teacher = "recorded" if expert is None else expert.name
    name = f"{env_name}-{student}-K{k}-{teacher}-s{seed}-{config_hash(identity)}"
    with RunFolder(Path(outputs) / "runs" / name, run_config(cfg), identity, resume=True, started=started) as folder:
        if not folder.finished:
            folder.begin()
            pipeline.check(ctx, cfg)
            job = JobInfo(name=name, job_type="train", folder=folder.path, outputs=Path(outputs), config=folder.config)
            with open_run(logger, job) as run:
                pipeline.train_and_score(ctx, cfg, folder, expert, demos_artifact, run)
    policy = load_policy(folder.path, acts_in, deterministic=cfg.evaluation.deterministic, trust=None)
    return Run(folder.path, read_results(folder.path), policy)


def load_policy(
    where: str | Path,
    env: EnvSpec | None = None,
    *,
    outputs: str | Path = "outputs",
    deterministic: bool = True,
    target_return: float | None = None,
    trust: Sequence[str] | None = (),
) -> Policy:
    """Load the policy of a finished run or of an expert. To act with it, see [`predict`][ilt.Policy.predict].

    Args:
        where: the folder of a run or an expert, an expert's name, or `random`.
        env: the environment to act in, which its observations and actions must fit; None for a student that acts
            elsewhere, such as on a robot, and takes observations as vectors.
        outputs: folder of the store, in which a name is looked up.
        deterministic: whether it takes its most likely action instead of sampling.
        target_return: what a return-conditioned student aims for in an episode; None for the target that it was
            scored with.
        trust: packages whose code may be run to build it, besides `ilt` and the package of `env`; None for all, if the
            files are your own.

    Raises:
        ConfigError: there is no such policy, it does not fit the environment, it takes no target return, or its code
            is not trusted.

    Example:
        ```python
        policy = ilt.load_policy("outputs/runs/NAME", env, trust=["my_lab"])
        action, state = policy.predict(observation)  # at the start of an episode
        action, state = policy.predict(next_observation, state)
        ```
    """
    ctx = _context(EnvSpec(id=NO_ENV) if env is None else env, outputs)
    package = ctx.env.id.rpartition(":")[0].partition(".")[0]
    if trust is not None and package:
        trust = [*trust, package]
    options: dict[str, Any] = {"deterministic": deterministic, "target_return": target_return, "trust": trust}
    saved = read_policy("where", str(where), ctx, **options)
    if env is not None:
        saved.policy.flatten = partial(env.observations.flatten, privileged=saved.policy.privileged)
        saved.policy.action_space = env.action_space
    return saved.policy


@limited_threads(1)
def evaluate(
    policy: Policy | LoadedExpert | Run, env: EnvSpec, *, n_episodes: int = 1000, seeds: str | None = None
) -> dict[str, Any]:
    """Run a policy and return the metrics of its episodes, with a 95% confidence interval for the mean return.

    Args:
        policy: a policy, an expert from `load_expert`, or a run from `train`.
        env: the environment that it acts in.
        n_episodes: test episodes, one per seed; ignored if `seeds` is given.
        seeds: BLOCK:COUNT or BLOCK:OFFSET:COUNT; None for the first `n_episodes` seeds of the test block.

    Returns:
        a mapping with `return_mean`, `return_std`, `return_median` and `return_p05` (fifth percentile);
            `return_mean_interval`, the bounds [low, high]; `success_rate`, `crash_rate` (None if the environment has no
            such rule) and `truncation_rate`, as fractions; `length_mean` in steps; and `n_episodes`.

    Example:
        ```python
        scores = ilt.evaluate(run, env, n_episodes=200)
        low, high = scores["return_mean_interval"]
        print(f"{scores['return_mean']:.1f} ({low:.1f} to {high:.1f})")
        others = ilt.evaluate(run, env, seeds="test:1000:500")  # 500 other test episodes
        ```
    """
    block, offset, count = parse_seeds(seeds or f"test:{n_episodes}", env.seed_blocks)
    if not isinstance(policy, Policy | LoadedExpert | Run):
        raise ConfigError(
            f"policy must be a policy, an expert or a run, got {policy!r}; ilt.load_policy reads a folder"
        )
    actor = policy if isinstance(policy, Policy) else policy.policy
    episodes, _ = _context(env, "outputs").rollout(actor, env.seeds(block, count, offset), title=f"{block} seeds")
    return summarize(episodes, env)


@limited_threads(1)
def compare(
    policies: Mapping[str, Policy | LoadedExpert | Run | str | Path],
    env: EnvSpec,
    *,
    seeds: str = "test:1000",
    reference: str | None = None,
    until: str = "all",
    margin: float | None = None,
    outputs: str | Path = "outputs",
    trust: Sequence[str] | None = (),
) -> dict[str, Any]:
    """Run policies on the same seeds. Return metrics by name, with paired differences from the reference.

    Args:
        policies: by name, a policy, an expert, a run, or anything that `load_policy` takes as `where`. A random policy
            is always included, with the name `random`.
        env: the environment that they act in.
        seeds: BLOCK:COUNT or BLOCK:OFFSET:COUNT.
        reference: name of the policy that the others are compared with; None for the first.
        until: `all` to use all seeds, or `decided` to stop, after any 100 episodes, as soon as it is clear which policy
            is better, or that they differ by less than the margin.
        margin: differences in return up to it do not matter. Choose it before you see any result.
        outputs: folder of the store, in which names are looked up.
        trust: as in `load_policy`.

    Returns:
        by name, a mapping with the keys of `evaluate`; with `performance`, which is 0 for the random policy and 1 for
            the reference (None if the two have the same return); and with `difference`, the `mean` and `interval` of
            the paired differences from the reference. With `until="decided"`, the interval is a confidence sequence,
            and `decision` has the `outcome` (`better`, `worse`, `equal` or `undecided`) and a `sentence`; with a margin
            and all seeds, `noninferior` says whether the interval excludes a loss of the margin or more.

    Raises:
        ConfigError: a policy does not fit the environment, or an argument is not allowed.

    Example:
        ```python
        table = ilt.compare({"student": run, "expert": expert}, env, reference="expert")
        print(table["student"]["performance"])
        print(table["student"]["difference"]["interval"])

        table = ilt.compare({"student": run, "expert": expert}, env, reference="expert", until="decided", margin=5)
        print(table["student"]["decision"]["sentence"])
        ```
    """
    check(named("command", "compare"), {"until": until, "margin": margin}, prefix="")
    first = reference or next(iter(policies))
    compared = [name for name in policies if name != first]
    if first not in {*policies, RANDOM}:
        raise ConfigError(f"reference must name one of policies = {[*policies]}, got {first}")
    if not compared and (until == "decided" or margin is not None):
        raise ConfigError(f"policies must have at least one besides the reference, {first}, with until or margin")
    block, offset, count = parse_seeds(seeds, env.seed_blocks)
    chosen, ctx = env.seeds(block, count, offset), _context(env, outputs)
    acting: dict[str, Policy] = {}
    for name, policy in {**policies, RANDOM: RANDOM}.items():
        if isinstance(policy, str | Path):
            policy = read_policy(name, str(policy), ctx, deterministic=True, trust=trust).policy
        acting[name] = policy if isinstance(policy, Policy) else policy.policy
    rollouts: dict[str, Episodes] = {}

    def returns_of(name: str, n_episodes: int) -> np.ndarray:
        done = len(rollouts[name]) if name in rollouts else 0
        if done < n_episodes:
            parts = [ctx.rollout(acting[name], chosen[done:n_episodes], title=name)[0]]
            rollouts[name] = Episodes.concatenate([rollouts[name], *parts] if done else parts)
        return rollouts[name].returns[None, :n_episodes]

    decisions: dict[str, Decision] = {}
    if until == "decided":
        _, decisions = decide_in_batches(
            returns_of, compared, reference=first, random=RANDOM, most=count, margin=margin, report=lambda *_: None
        )
    else:
        for name in acting:
            returns_of(name, count)
    ordered = {name: [rollouts[name]] for name in [first, *acting]}  # the longest first
    table = compare_policies(ordered.items(), {}, env, reference=first, random=RANDOM)[0][ALL]
    if until == "decided":
        limits = {"margin": margin, "most_episodes": count}
        described = decided({"until": limits, "reference": first, "metrics": {ALL: table}}, decisions)
        table = described["metrics"][ALL]
        for name, decision in described["until"]["decisions"].items():
            table[name]["decision"] = decision
    elif margin is not None:
        for name in compared:
            table[name]["noninferior"] = is_noninferior(table[name]["difference"]["interval"], margin)
    return {name: table[name] for name in acting}


def _context(env: EnvSpec, outputs: str | Path) -> Context:
    if not isinstance(env, EnvSpec):
        raise ConfigError(f"env must come from ilt.make_env, got {env!r}")
    return Context(env, Store(Path(outputs)), n_processes=1)


def _env_config(env: EnvSpec) -> dict[str, Any]:
    values = {name: getattr(env, name) for name in named("env", "gymnasium").fields}
    return {
        "_target_": path_of(EnvSpec),
        **{k: plain(OmegaConf.create(dict(v))) if isinstance(v, Mapping) else v for k, v in values.items()},
    }


def _compose(
    env: EnvSpec, seed: int, outputs: str | Path, presets: Mapping[str, Any], settings: Mapping[str, Any]
) -> DictConfig:
    """Compose a complete config of `ilt train` without Hydra. Raise ConfigError, naming the setting, if it is wrong."""
    values: dict[str, Any] = {
        **named("command", "train").defaults, "seed": seed, "outputs": str(outputs), "run_name": "api", "logger": None
    }  # fmt: skip
    for group, option in DEFAULTS.items():
        given = settings.get(group, {})
        name, keys = given if isinstance(given, tuple) else (given, {}) if isinstance(given, str) else (option, given)
        keys = merge(presets.get(group, {}), keys)
        values[group] = dict(keys) if "_target_" in keys else merge(load_option(group, name), keys)
    for name in settings:
        if name not in values:
            raise ConfigError(f"{name} is not a setting; those are {sorted(DEFAULTS)}")
    cfg = OmegaConf.create({**values, "env": _env_config(env)})
    check_config(cfg, "train")
    return cfg


def _keep(ctx: Context, demos: Demonstrations) -> Artifact:
    """Put demonstrations into the store, identified by their content."""
    blocks = {"demonstrations": demos.episodes, "validation": demos.validation}
    digest = hashlib.sha256()
    for episodes in blocks.values():
        for array in (episodes.observations, episodes.actions, episodes.rewards, episodes.lengths, episodes.seeds):
            digest.update(np.ascontiguousarray(array).tobytes())
    config = {"env": ctx.env.identity(), "content": digest.hexdigest()}

    def make(folder: Path) -> dict[str, Any]:
        for block, episodes in blocks.items():
            episodes.save(folder / f"{block}.npz")
        return {
            block: {**episode_metrics(episodes, ctx.env), "kept": len(episodes)} for block, episodes in blocks.items()
        }

    parents = () if demos.expert is None else demos.expert.parents
    return ctx.store.find_or_make("demos", "api", config, make, parents=parents)
