"""Schemas of the config group `expert`."""

from dataclasses import dataclass

from ilt.schema import LARGEST_COUNT, LARGEST_SEED, NAME, component, key


@component("expert")
class AnyExpert:
    """Keys of every expert."""

    name: str | None = key(
        None,
        "Name of its folder, before the hash; null for that of its class or function.",
        rule=NAME.or_null(),
        identity=False,
    )
    gate: float | None = key(
        None, "Minimum mean return on selection seeds for it to demonstrate; null for none.", identity=False
    )
    privileged: bool = key(False, "Whether it sees what the environment hides from students.")
    deterministic: bool = key(True, "Whether it takes its most likely action or samples.", identity=False)
    seed: int = key(0, "Decides its weights, its samples and its training episodes.", ge=0, le=LARGEST_SEED)
    selection_episodes: int = key(100, "Selection seeds of each scoring, to pick the best checkpoint.", ge=1)
    gate_episodes: int = key(400, "Further selection seeds, to evaluate the best checkpoint for the gate.", ge=1)
    train: bool = key(True, "Whether it may be trained if it is not found; false is an error then.", identity=False)
    train_at_most: int | None = key(
        None, "Limit on the environment steps of a new training; null for `total_steps`.", ge=1, identity=False
    )


@dataclass(kw_only=True)
class _Trained(AnyExpert):
    total_steps: int = key(1_000_000, "Environment steps of the training.", ge=1, le=LARGEST_COUNT)
    score_every: int = key(50_000, "Steps between scorings; a killed training resumes from the last one.", ge=1)
    hidden: list[int] = key([64, 64], "Width of each hidden layer of actor and critic.", ge=1)
    n_envs: int = key(16, "Environments stepped together.", ge=1)
    gamma: float = key(0.99, "Discount.", ge=0, le=1)
    gae_lambda: float = key(
        0.95, "Trade-off of generalized advantage estimation between bias and variance.", ge=0, le=1
    )
    ent_coef: float = key(0.0, "Weight of the entropy bonus.", ge=0)
    learning_rate: float = key(0.0005, "Initial learning rate; decays linearly.", gt=0)
    final_learning_rate_fraction: float = key(0.0, "Final learning rate, as a fraction of the first.", ge=0, le=1)
    max_grad_norm: float = key(0.5, "Norm that gradients are clipped to.", gt=0)
    normalize_observations: bool = key(False, "Standardize observations by running moments.")
    normalize_rewards: bool = key(False, "Divide rewards by the running deviation of the discounted return.")


@component("expert", "ppo", "ilt.experts.ppo.PPO")
class PPO(_Trained):
    """Stable-Baselines3's PPO."""

    n_steps: int = key(1024, "Steps of each environment between updates.", ge=1)
    batch_size: int = key(64, "Steps of one gradient.", ge=2)
    n_epochs: int = key(4, "Passes over each rollout.", ge=1)
    clip_range: float = key(0.2, "Clipping of the probability ratio between the new policy and the old.", gt=0)
    vf_coef: float = key(0.5, "Weight of the critic's loss.", ge=0)
    log_std_init: float = key(0.0, "Log deviation of the first policy, for Box actions.")


@component("expert", "a2c", "ilt.experts.a2c.A2C")
class A2C(_Trained):
    """Our own advantage actor-critic."""

    n_steps: int = key(128, "Steps of each environment between updates.", ge=1)
    batch_size: int = key(128, "Steps of one gradient.", ge=2)
    critic_epochs: int = key(4, "The critic's passes over each rollout; the policy takes one.", ge=1)
    normalize_observations: bool = key(True, "Standardize observations by running moments.")
    normalize_rewards: bool = key(True, "Divide rewards by the running deviation of the discounted return.")
    log_std_init: float = key(0.0, "Log deviation of the first policy, for Box actions.")


@component("expert", "sb3", "ilt.experts.sb3_file.SB3File")
class SB3File(AnyExpert):
    """A policy that Stable-Baselines3 saved."""

    path: str = key(
        "???", "The zip file of a PPO, A2C, DQN, SAC or TD3 with an MLP policy.", file=("data", "policy.pth")
    )


@component("expert", "heuristic", "ilt.experts.base.HeuristicExpert")
class Heuristic(AnyExpert):
    """The hand-written controller that `env.heuristic` names."""


@component("expert", "random", "ilt.experts.base.RandomExpert")
class Random(AnyExpert):
    """Uniformly random actions."""

    deterministic: bool = key(False, "Has no effect: actions are always random.", identity=False)
