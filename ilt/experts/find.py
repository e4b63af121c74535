"""Find, train and evaluate experts, and collect demonstrations from them."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from ilt.data.episodes import Episodes
from ilt.data.sources import check_fits, filter_episodes, make_source, warn_of_seeds, warn_of_units
from ilt.experts.base import Expert, make_expert
from ilt.experts.gate import check_gate
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import Policy, RandomPolicy
from ilt.rollout.recorded import Context, NamedPolicy
from ilt.rollout.run import limited_threads
from ilt.schema import ConfigError, canonical, leaves, plain, printable
from ilt.settings import has_expert
from ilt.tracking.progress import Progress
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.store import SHIPPED, Artifact, Store, read_manifest

log = logging.getLogger(__name__)

_SECONDS_PER_GRADIENT = 0.003
"""Seconds per gradient step of a small network on one core."""


class LoadedExpert(NamedPolicy):
    """An expert that can act in an environment, as `ilt.load_expert` returns it.

    Attributes:
        policy: the expert as a policy, which may be privileged.
        name: its name in the names of runs and folders.
        identity: everything that determines its actions, besides `deterministic`.
        deterministic: whether it takes its most likely action instead of sampling.
        parents: the artifacts that it was loaded from.
    """

    @property
    def artifact(self) -> Artifact | None:
        """Its artifact; None for a function or policy that a caller passed in."""
        return next(iter(self.parents), None)

    @property
    def selection_return(self) -> float | None:
        """Its mean return on selection seeds that were not used to pick a checkpoint."""
        if self.artifact is None:
            return None
        measured = self.artifact.metrics["selection"]["deterministic" if self.deterministic else "sampled"]
        return float(measured["return_mean"])


def load(ctx: Context, expert: Any, artifact: Artifact) -> LoadedExpert:
    """Load the expert of an artifact, to act as a config's `expert` says."""
    return LoadedExpert(
        policy=expert_policy(ctx, expert, artifact),
        name=expert.name,
        identity=artifact.name,
        deterministic=expert.deterministic,
        parents=(artifact,),
    )


def find_or_load(ctx: Context, expert: Any) -> LoadedExpert | None:
    """Find or train the expert of a config's `expert`, and load it; None for `expert=none`."""
    return load(ctx, expert, find_or_train(ctx, expert)) if has_expert(expert) else None


def canonical_config_of(ctx: Context, expert: Any) -> dict[str, Any]:
    """Return everything that determines an expert. The gate is not part of it: a trained expert is kept in any case."""
    made = make_expert(expert, trust=ctx.env.trust)  # checks the trust before anything else is imported
    return {
        "env": ctx.env.identity(),
        "seeds": {block: list(ctx.env.seed_blocks[block]) for block in ("demonstrations", "selection")},
        "expert": {**canonical("expert", expert), **made.identity()},
    }


def find_or_train(ctx: Context, expert: Any, on_score: Callable[[int, float], None] | None = None) -> Artifact:
    """Find the expert of a config's `expert` in the store, or train it and evaluate it on selection seeds.

    Args:
        on_score: called after each scoring during training, with the environment steps so far and the mean return.

    Raises:
        ConfigError: it must be trained, but `expert.train` is false.
    """
    if (found := ctx.store.find("experts", expert.name, canonical_config_of(ctx, expert))) is not None:
        return found
    expert = _capped(expert)
    made = make_expert(expert, trust=ctx.env.trust)

    def make(folder: Path) -> dict[str, Any]:
        training = _train(ctx, expert, made, folder, on_score)
        return {"selection": _measure(ctx, expert, made, folder), "training": training}

    config = canonical_config_of(ctx, expert)
    if made.total_steps and ctx.store.find("experts", expert.name, config) is None:
        why = _why(ctx, expert, config)
        if not expert.train:
            raise ConfigError(
                f"expert.train must be true, or the expert must already exist, got false: {why}, for "
                f"{made.total_steps:,} steps"
            )
        log.info("%s, for %s steps, about %s", why, f"{made.total_steps:,}", _duration(ctx, made))
        log.info("it will be kept in %s", ctx.store.root / "experts")
    env = {"id": ctx.env.id, "kwargs": dict(ctx.env.kwargs), "wrappers": dict(ctx.env.wrappers)}
    about = {"env": env, "expert": plain(expert)}
    return ctx.store.find_or_make("experts", expert.name, config, make, about=about)


def find(ctx: Context, expert: Any) -> Artifact:
    """Find the expert of a config's `expert` in the store. Raise ConfigError if it is not there.

    An expert that needs no training is evaluated now if necessary.
    """
    found = ctx.store.find("experts", expert.name, canonical_config_of(ctx, expert))
    found = found or ctx.store.find("experts", expert.name, canonical_config_of(ctx, _capped(expert)))
    if found is None and not make_expert(expert, trust=ctx.env.trust).total_steps:
        return find_or_train(ctx, expert)
    if found is None:
        raise ConfigError(f"the run's expert ({expert.name}) is not in {ctx.store.root / 'experts'}; train it first")
    return found


def expert_policy(ctx: Context, expert: Any, artifact: Artifact) -> Policy:
    """Load the policy of an expert, to act as a config's `expert` says."""
    made = make_expert(expert, trust=ctx.env.trust)
    return made.policy(ctx.env, artifact.path, privileged=expert.privileged, deterministic=expert.deterministic)


def find_or_collect(ctx: Context, demos: Any, expert: Any, loaded: LoadedExpert | None) -> Artifact:
    """Find or collect the demonstrations of a config's `demos`: `demonstrations.npz` and `validation.npz`.

    Raise GateError if they come from an expert that does not pass its gate, and ConfigError if there is none.
    """
    source = make_source(demos)
    if not source.uses_expert:
        loaded = None
    elif loaded is None:
        raise ConfigError(f"expert must be one that demonstrates where demos._target_={demos['_target_']}, got none")
    elif loaded.artifact is not None:
        check_gate(loaded.artifact, gate=expert.gate, deterministic=expert.deterministic)
    config: dict[str, Any] = {"env": ctx.env.identity(), "demos": {**canonical("demos", demos), **source.identity()}}
    if loaded is not None:
        config |= {"expert": loaded.identity, "deterministic": loaded.deterministic}
        config["blocks"] = {b: int(ctx.env.seed_blocks[b][0]) for b in ("demonstrations", "validation")}

    def make(folder: Path) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for block in ("demonstrations", "validation"):
            ran: dict[str, Any] = {}

            def demonstrate(
                seeds: np.ndarray, title: str, other: Mapping[str, Any] | None = None, /, ran: dict[str, Any] = ran
            ) -> Episodes:
                if other is not None:
                    values = OmegaConf.create(dict(other))
                    policy = expert_policy(ctx, values, find_or_train(ctx, values))
                    return ctx.rollout(policy, seeds, title=title)[0]
                assert loaded is not None, "only a source with uses_expert asks for the expert's demonstrations"
                episodes, measured = ctx.rollout(loaded.policy, seeds, title=title)
                ran.update(measured)
                return episodes

            episodes = source.episodes(ctx.env, block, demonstrate)
            check_fits(episodes, ctx.env, source=f"demos, block {block},")
            if loaded is None and not source.experts:
                warn_of_units(episodes, ctx.env, source=f"demos, block {block},")
                warn_of_seeds(episodes, ctx.env, source=f"demos, block {block},")
            kept, dropped = filter_episodes(episodes, demos.filters)
            if len(kept) == 0:
                counted = f"all {len(episodes)} of {block}: {dropped}"
                raise ConfigError(f"demos.filters must keep an episode of each block, but drop {counted}")
            kept.save(folder / f"{block}.npz")
            ran = ran or {"n_episodes": len(episodes), **episode_metrics(episodes, ctx.env)}
            metrics[block] = {
                **ran,
                "kept": len(kept),
                "kept_return_mean": float(kept.returns.mean()),
                "dropped": dropped,
            }
        scores = source.reference_scores()
        return metrics if scores is None else {**metrics, "reference_scores": scores}

    if loaded is not None:
        name, parents = loaded.name, loaded.parents
    else:
        name, parents = "mixed" if source.experts else "recorded", ()
    return ctx.store.find_or_make("demos", name, config, make, parents=parents)


def _capped(expert: Any) -> Any:
    """Limit the expert's training to `train_at_most` steps."""
    if expert.get("train_at_most") is None or expert.get("total_steps", 0) <= expert.train_at_most:
        return expert
    capped = expert.copy()
    capped.total_steps = expert.train_at_most
    return capped


def _train(
    ctx: Context, expert: Any, made: Expert, folder: Path, on_score: Callable[[int, float], None] | None
) -> dict[str, Any] | None:
    seeds = ctx.env.seeds("selection", expert.selection_episodes)
    arguments: dict[str, Any] = {"seed": expert.seed, "privileged": expert.privileged}
    n = made.rollout_steps
    # more threads would change the weights and, with small batches, only wait for each other
    with (
        limited_threads(1),
        Progress(f"expert {expert.name}", total=max(-(-made.total_steps // n) * n, 1), unit="steps") as progress,
    ):

        def report(steps: int, return_mean: float | None) -> None:
            progress.update(steps, note=None if return_mean is None else f"return {return_mean:.1f}")
            if on_score is not None and return_mean is not None:
                on_score(steps, return_mean)

        def score(policy: Policy) -> float:
            return float(ctx.quiet_rollout(policy, seeds).returns.mean())

        return made.train(ctx.env, folder, score=score, report=report, **arguments)


def _measure(ctx: Context, expert: Any, made: Expert, folder: Path) -> dict[str, Any]:
    """Evaluate deterministic and sampled actions on selection seeds that were not used to pick a checkpoint."""
    seeds = ctx.env.seeds("selection", expert.gate_episodes, offset=expert.selection_episodes)
    metrics: dict[str, Any] = {}
    for name, deterministic in (("deterministic", True), ("sampled", False)):
        policy = made.policy(ctx.env, folder, privileged=expert.privileged, deterministic=deterministic)
        metrics[name] = episode_metrics(ctx.quiet_rollout(policy, seeds), ctx.env)
    return {**metrics, "seeds": [int(seeds[0]), len(seeds)]}


def _why(ctx: Context, expert: Any, config: Mapping[str, Any]) -> str:
    """Explain that an expert must be trained, and how it differs from the most similar one in the store."""
    wanted = dict(leaves(config))
    reason = f"{expert.name} for {ctx.env.id} must be trained, since no such expert exists"
    differences = []
    for folder in (ctx.store.root / "experts", SHIPPED["experts"]):
        for path in sorted(folder.glob("*/manifest.json")):
            try:
                manifest = read_manifest(path.parent)
            except UnreadableFileError:
                continue
            there = dict(leaves(manifest["config"]))
            differing = sorted(k for k in {*wanted, *there} if wanted.get(k) != there.get(k))
            rank = ("env.id" in differing, "expert.component" in differing, len(differing))
            default = "its default"
            values = [f"{k}={wanted.get(k, default)} (there: {there.get(k, default)})" for k in differing[:3]]
            values += [f"{len(differing) - 3} other keys"] if len(differing) > 3 else []
            made_by = manifest.get("command")
            name = f"{path.parent.name} of `{printable(made_by)}`" if isinstance(made_by, str) else path.parent.name
            differences.append((rank, name, ", ".join(values)))
    if not differences or min(differences)[0][0]:
        return f"{reason} for this environment" if differences else reason
    return f"{reason} (the most similar one is {min(differences)[1]}, which differs in {min(differences)[2]})"


def _duration(ctx: Context, made: Expert) -> str:
    """Estimate the duration of training: twice the simulator's time, plus the gradient steps."""
    policy = RandomPolicy(ctx.env.action_space)
    started = time.monotonic()
    seeds = ctx.env.seeds("selection", 8)
    done = len(Context(ctx.env, Store(ctx.store.root), n_envs=8).quiet_rollout(policy, seeds).actions)
    seconds = 2 * made.total_steps * (time.monotonic() - started) / done + made.gradient_steps * _SECONDS_PER_GRADIENT
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
