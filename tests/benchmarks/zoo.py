"""Collecting and scoring in the zoo's environments with continuous actions, compared with the environment limit."""

import torch
from omegaconf import OmegaConf

from ilt.envs.spec import EnvSpec
from ilt.experts.base import make_expert
from ilt.models.decoder import Decoder
from ilt.models.heads import Gaussian
from ilt.registry import load_option
from ilt.rollout import workers
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.run import rollout
from ilt.schema import own_keys
from ilt.tracking.store import SHIPPED, read_manifest
from tests.benchmarks.measuring import Row, compare
from tests.benchmarks.rollouts import Escorted, Recorded, acting, environment_limit

STEPS = 50_000
"""About how many steps a measurement takes, but at least 100 episodes."""


def zoo(_: EnvSpec) -> list[Row]:
    """Measure the steps per second of each expert, and of `tiny` with K = 8 in the expert's episodes, on all cores."""
    rows = []
    for path in sorted(SHIPPED["experts"].glob("*/manifest.json")):
        manifest = read_manifest(path.parent)
        env, config = manifest["env"], OmegaConf.create(manifest["expert"])
        spec = EnvSpec(id=env["id"], kwargs=env["kwargs"], wrappers=env["wrappers"])
        if not spec.action_space.continuous or config.privileged:
            continue
        expert = make_expert(config).policy(spec, path.parent, privileged=False, deterministic=True)
        head = Gaussian(action_space=spec.action_space)
        torch.manual_seed(0)
        model = Decoder(
            observation_dim=spec.observations.dim, action_space=spec.action_space, n_outputs=head.n_outputs,
            context_length=8, **own_keys("model", load_option("model", "tiny")),
        )  # fmt: skip
        n_episodes = max(STEPS // (spec.max_episode_steps or 1000), 100)
        seeds, n = spec.seeds("test", n_episodes), workers.cores()
        limit = environment_limit(spec, n_episodes, expert)
        student = Escorted(SequencePolicy(model, head), Recorded(rollout(spec, expert, seeds, n_processes=n)))
        for work, policy in (("collect", expert), ("score with tiny", student)):
            ours = acting(spec, policy, seeds, n_processes=n)
            rows.append(compare(f"{env['id']}: {work}", "steps/s", ours, ("environment limit", limit, "≥ 0.7")))
    return rows
