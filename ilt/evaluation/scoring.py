"""Score trained students, their expert and a random policy on the same seeds."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from ilt.data.episodes import Episodes
from ilt.evaluation.copycat import copycat, mean_change
from ilt.evaluation.statistics import NOT_SCORED, compare, data_set_reference, summarize
from ilt.evaluation.tables import episode_rows
from ilt.experts.find import LoadedExpert
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import Context, random_policy
from ilt.schema import ConfigError, plain
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact, provenance, sha256
from ilt.training.fit import Fitted, write_csv

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


def score_students(
    ctx: Context,
    expert: LoadedExpert | None,
    weights: Mapping[str, Path],
    seeds: np.ndarray,
    *,
    context_length: int | None,
    deterministic: bool,
    reference_scores: Mapping[str, float] | None = None,
    target_return: float | None = None,
    trust: "Sequence[str] | None" = (),
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Episodes]]:
    """Roll out students, expert and random policy on the same seeds.

    Args:
        expert: the expert to compare the students with; None if there is none.
        weights: files of student weights, by name. The first one is reported. Files with equal content are run once.
        seeds: (E,) integers.
        context_length: steps of context; None for the length that the students were trained with.
        deterministic: whether the students take their most likely action, or sample.
        reference_scores: of the demonstrations; see `ilt.evaluation.statistics.compare`.
        target_return: what return-conditioned students aim for; None for their own target.
        trust: packages besides `ilt` whose code may be run to build the students.

    Returns:
        The reported student's comparison, as in `results.json`; the metrics of each student by name; and the episodes
        of `student` (the reported one), `expert` if there is one, and `random`.
    """
    acting = {**({} if expert is None else {"expert": expert}), "random": random_policy(ctx.env)}
    references = {
        name: Episodes.load(ctx.find_or_rollout(policy, seeds).file("episodes.npz")) for name, policy in acting.items()
    }
    done: dict[str, tuple[Episodes, dict[str, Any], float | None]] = {}
    students = {}
    for name, path in weights.items():
        content = sha256(path)
        if content not in done:
            _, model, head = ModelSpec.load(path, trust=trust)
            policy = SequencePolicy(
                model, head, context_length=context_length, deterministic=deterministic, target_return=target_return
            )
            title = f"student ({name}) on {ctx.env.block_of(seeds)} seeds"
            done[content] = *ctx.rollout(policy, seeds, title=title), policy.target_return
        students[name] = done[content]
    reported = next(iter(students))
    own, metrics, target = students[reported]
    comparison = compare(own, references, ctx.env, reference_scores=reference_scores)
    comparison["steps_per_second"] = metrics["steps_per_second"]
    if target is not None:
        comparison["target_return"] = target
    checkpoints = {name: summarize(episodes, ctx.env) for name, (episodes, *_) in students.items()}
    return comparison, checkpoints, {"student": own, **references}


def score(
    ctx: Context, cfg: DictConfig, run: RunFolder, expert: LoadedExpert | None, demos: Artifact, fitted: Fitted
) -> tuple[dict[str, Any], dict[str, Episodes]]:
    """Score a run on test seeds and write `episodes.csv`. Return the content of `results.json`, and the episodes.

    Without an environment, there are no episodes, and all that needs them is null.
    """
    evaluation, reference_scores = cfg.evaluation, demos.metrics.get("reference_scores")
    reported = evaluation.reported_checkpoint
    if reported not in fitted.weights:
        raise ConfigError(
            f"evaluation.reported_checkpoint must be last where the run was trained with callbacks.best=null, got "
            f"{reported}; resume=false trains it again"
        )
    names = [reported, *(name for name in fitted.weights if name != reported)]
    if ctx.env.simulated:
        comparison, checkpoints, episodes = score_students(
            ctx,
            expert,
            {name: fitted.weights[name] for name in names},
            ctx.env.seeds("test", evaluation.n_episodes),
            context_length=evaluation.context_length,
            deterministic=evaluation.deterministic,
            reference_scores=reference_scores,
            trust=None,
        )
        write_csv(run.path / "episodes.csv", episode_rows(episodes))
    else:
        reference = reference_scores and data_set_reference(reference_scores)
        comparison, episodes = {**NOT_SCORED, "performance_reference": reference}, {}
        checkpoints = {name: {} for name in names}
    for name, metrics in checkpoints.items():
        at = fitted.at(name)
        metrics["step"] = int(at["step"])
        metrics["selection_return_mean"] = at.get("rollout/return_mean")
        metrics["validation_loss"] = at["val/loss"]
        metrics |= {k.removeprefix("val/"): at[k] for k in ("val/action_accuracy", "val/action_error") if k in at}
    scoring_speed = comparison.pop("steps_per_second", None)
    context_length = evaluation.context_length or cfg.dataset.context_length
    own = checkpoints[reported]
    return {
        **comparison,
        "reported_checkpoint": reported,
        **{name: own[name] for name in ("validation_loss", "action_accuracy", "action_error") if name in own},
        "selection_return_mean": own["selection_return_mean"],
        "checkpoints": checkpoints,
        "evaluation": plain(evaluation),
        "seeds": {"block": "test", "offset": 0, "count": comparison["n_episodes"]},
        "context_length": context_length,
        "copycat": _copycat(ctx, fitted.weights[reported], demos, episodes, context_length),
        "seed": cfg.seed,
        "env": ctx.env.id,
        "expert": expert and (expert.name if expert.artifact is None else expert.artifact.name),
        "demonstrations": demos.name,
        "imitation": fitted.imitation,
        "files": {f"weights/{path.name}": sha256(path) for path in fitted.weights.values()},
        "n_parameters": fitted.n_parameters,
        "resumed": fitted.resumed,
        "precision": fitted.precision,
        "speed": {
            "collection_steps_per_second": demos.metrics["demonstrations"].get("steps_per_second"),
            "training_windows_per_second": fitted.windows_per_second and round(fitted.windows_per_second),
            "scoring_steps_per_second": scoring_speed,
        },
        **provenance(),
    }, episodes


def _copycat(
    ctx: Context, weights: Path, demos: Artifact, episodes: Mapping[str, Episodes], context_length: int
) -> dict[str, Any]:
    """Return how often actions change in the rollouts of student and expert, and what `copycat` measures."""
    space = ctx.env.action_space
    found: dict[str, Any] = {
        "change": {name: mean_change(episodes[name], space) for name in ("student", "expert") if name in episodes}
    }
    if context_length > 1:
        _, model, head = ModelSpec.load(weights, trust=None)
        validation = Episodes.load(demos.file("validation.npz"))
        found |= copycat(model, head, validation, action_space=space, context_length=context_length)
    return found
