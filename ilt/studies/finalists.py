"""Choose the winner of a search: its best trials act in new selection episodes until they can be distinguished.

The best value of a search is the largest of many noisy ones. It is often that of a trial that was lucky, while a better
one comes second or third.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from ilt.evaluation.sequential import Decision, decide_in_batches
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import Policy, SequencePolicy
from ilt.rollout.recorded import RANDOM, Context, random_policy
from ilt.tracking.run_folder import read_config

log = logging.getLogger(__name__)


def evaluate_finalists(ctx: Context, cfg: DictConfig, runs: Mapping[int, Sequence[Path]]) -> list[dict[str, Any]]:
    """Let the best trials of a search act in selection episodes that no training has seen.

    Evaluation stops when a confidence sequence says for each of them whether it is better or worse than the first one;
    see `ilt.evaluation.sequential`.

    Args:
        ctx: the environment and how to run it.
        cfg: the search's config.
        runs: folders of each trial's trained seeds, by number of the trial; the one with the highest value first.

    Returns:
        for each trial its number, how many `episodes` each of its seeds acted in, the mean `return` over them, and,
        but for the first, `difference` from the first in the same episodes, its `interval` and the `outcome`.
    """
    earned, most = dict[str, np.ndarray](), cfg.search.finalist_episodes
    policies: dict[str, list[Policy]] = {
        str(trial): [_student(cfg, run) for run in folders] for trial, folders in runs.items()
    }
    policies[RANDOM] = [random_policy(ctx.env).policy]
    returns_of = _returns_of(ctx, policies, earned, offset=cfg.callbacks.rollout.n_episodes)
    first, *others = map(str, runs)

    def report(trial: str, decision: Decision) -> None:
        said = decision.sentence(f"trial {trial}", f"trial {first}", margin=None, most=most)
        log.info("%s", said)

    lengths, decisions = decide_in_batches(
        returns_of, others, reference=first, random=RANDOM, most=most, margin=None, report=report
    )
    found = []
    for trial in (first, *others):
        own: dict[str, Any] = {"trial": int(trial), "episodes": lengths[trial], "return": float(earned[trial].mean())}
        if trial in decisions:
            decision = decisions[trial]
            own |= {"difference": decision.mean, "interval": decision.interval, "outcome": decision.outcome}
        found.append(own)
    return found


def _student(cfg: DictConfig, run: Path) -> Policy:
    """Return the policy of a trial's run, with the weights that the search reports."""
    evaluation = read_config(run)["evaluation"]
    _, model, head = ModelSpec.load(run / "weights" / f"{cfg.evaluation.reported_checkpoint}.safetensors", trust=None)
    return SequencePolicy(
        model,
        head,
        context_length=evaluation["context_length"],
        deterministic=evaluation["deterministic"],
        target_return=evaluation["target_return"],
    )


def _returns_of(
    ctx: Context, policies: Mapping[str, Sequence[Policy]], earned: dict[str, np.ndarray], *, offset: int
) -> Callable[[str, int], np.ndarray]:
    """Return a function that returns the (runs, n) returns of a policy's runs in the first n episodes.

    Args:
        earned: gets the returns of each policy so far.
        offset: first seed in the selection block.
    """

    def returns_of(name: str, n_episodes: int) -> np.ndarray:
        known = earned.get(name, np.zeros((len(policies[name]), 0)))
        if (missing := n_episodes - known.shape[1]) > 0:
            seeds = ctx.env.seeds("selection", missing, offset + known.shape[1])
            new = np.stack([ctx.quiet_rollout(policy, seeds).returns for policy in policies[name]])
            earned[name] = known = np.concatenate([known, new], axis=1)
        return known[:, :n_episodes]

    return returns_of
