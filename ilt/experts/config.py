"""Schemas of the config group `expert`."""

from dataclasses import dataclass

from ilt.rules import LARGEST_COUNT, LARGEST_SEED, NAME, Rule, number
from ilt.schema import component, key

_ENTROPY = Rule(lambda v: v == "auto" or number(0).allows(v), "a number at least 0, or auto")


@component("expert")
class AnyExpert:
    """Keys of every expert."""

    name: str | None = key(
        None,
        "Name of the expert's folder, before the hash; null for the component's name.",
        rule=NAME.or_null(),
        identity=False,
    )
    gate: float | None = key(
        None,
        "Minimum mean return on selection seeds that the expert needs to demonstrate; null for none.",
        identity=False,
    )
    privileged: bool = key(False, "Whether the expert sees what the environment hides from students.")
    deterministic: bool = key(
        True, "Whether the expert takes its most likely action instead of sampling.", identity=False
    )
    seed: int = key(0, "Seed of the expert's weights, samples and training episodes.", ge=0, le=LARGEST_SEED)
    selection_episodes: int = key(100, "Selection episodes per scoring, to pick the best checkpoint.", ge=1)
    gate_episodes: int = key(400, "Other selection episodes, to evaluate the best checkpoint for the gate.", ge=1)
    train: bool = key(
        True, "Whether to train the expert if it is not found; with false, that is an error.", identity=False
    )
    train_at_most: int | None = key(
        None, "Limit on the environment steps of a new training run; null for `total_steps`.", ge=1, identity=False
    )


@dataclass(kw_only=True)
class _Trained(AnyExpert):
    total_steps: int = key(1_000_000, "Environment steps of training.", ge=1, le=LARGEST_COUNT)
    score_every: int = key(
        50_000, "Environment steps between scorings; an interrupted run resumes from the last one.", ge=1
    )
    hidden: list[int] = key([64, 64], "Width of each hidden layer of actor and critic.", ge=1)
    n_envs: int = key(16, "Environments stepped together.", ge=1)
    gamma: float = key(0.99, "Discount factor.", ge=0, le=1)


@dataclass(kw_only=True)
class _OnPolicy(_Trained):
    gae_lambda: float = key(
        0.95, "Trade-off between bias and variance in generalized advantage estimation.", ge=0, le=1
    )
    ent_coef: float = key(0.0, "Weight of the entropy bonus.", ge=0)
    learning_rate: float = key(0.0005, "Initial learning rate; decays linearly.", gt=0)
    final_learning_rate_fraction: float = key(0.0, "Final learning rate, as a fraction of the initial one.", ge=0, le=1)
    max_grad_norm: float = key(0.5, "Norm to which gradients are clipped.", gt=0)
    normalize_observations: bool = key(False, "Standardize observations by running moments.")
    normalize_rewards: bool = key(False, "Divide rewards by the running standard deviation of the discounted return.")


@component("expert", "ppo", "ilt.experts.ppo.PPO")
class PPO(_OnPolicy):
    """Stable-Baselines3's PPO."""

    n_steps: int = key(1024, "Steps of each environment between updates.", ge=1)
    batch_size: int = key(64, "Environment steps per gradient step.", ge=2)
    n_epochs: int = key(4, "Passes over each rollout.", ge=1)
    clip_range: float = key(0.2, "Clipping range of the probability ratio between the new and the old policy.", gt=0)
    vf_coef: float = key(0.5, "Weight of the critic's loss.", ge=0)
    log_std_init: float = key(0.0, "Initial log standard deviation of the policy, for Box actions.")
    activation: str = key("tanh", "Activation between the layers of actor and critic.", choices=("tanh", "relu"))


@component("expert", "a2c", "ilt.experts.a2c.A2C")
class A2C(_OnPolicy):
    """Our own advantage actor-critic."""

    n_steps: int = key(128, "Steps of each environment between updates.", ge=1)
    batch_size: int = key(128, "Environment steps per gradient step.", ge=2)
    critic_epochs: int = key(4, "The critic's passes over each rollout; the policy takes one.", ge=1)
    normalize_observations: bool = key(True, "Standardize observations by running moments.")
    normalize_rewards: bool = key(True, "Divide rewards by the running standard deviation of the discounted return.")
    log_std_init: float = key(0.0, "Initial log standard deviation of the policy, for Box actions.")


@component("expert", "sac", "ilt.experts.off_policy.SAC")
class SAC(_Trained):
    """Stable-Baselines3's soft actor-critic, for continuous actions."""

    score_every: int = key(
        10_000, "Environment steps between scorings; an interrupted run resumes from the last one.", ge=1
    )
    hidden: list[int] = key([256, 256], "Width of each hidden layer of actor and critics.", ge=1)
    n_envs: int = key(1, "Environments stepped together.", ge=1)
    learning_rate: float = key(0.0003, "Learning rate, which stays constant.", gt=0)
    ent_coef: str | float = key("auto", "Weight of the entropy; `auto` learns it.", rule=_ENTROPY)
    batch_size: int = key(256, "Replayed steps per gradient step.", ge=2)
    buffer_size: int = key(1_000_000, "Steps that the replay buffer holds; a resumed run has them all.", ge=1)
    learning_starts: int = key(10_000, "Random steps before learning.", ge=0)
    train_freq: int = key(1, "Steps of each environment between updates.", ge=1)
    gradient_steps: int = key(1, "Gradient steps of an update.", ge=1)
    tau: float = key(0.005, "Share of the critics that the target critics take over at each gradient step.", gt=0, le=1)


@component("expert", "tqc", "ilt.experts.off_policy.TQC")
class TQC(SAC):
    """sb3-contrib's truncated quantile critics, for continuous actions; needs the extra `experts`."""

    n_critics: int = key(2, "Critics in the ensemble.", ge=1)
    n_quantiles: int = key(25, "Quantiles of each critic.", ge=1)
    top_quantiles_to_drop_per_net: int = key(2, "Largest quantiles of each critic that are left out.", ge=0)


@component("expert", "sb3", "ilt.experts.sb3_file.SB3File")
class SB3File(AnyExpert):
    """A policy saved by Stable-Baselines3 or sb3-contrib."""

    path: str = key(
        "???",
        "Zip file of a PPO, A2C, TRPO, DQN, QR-DQN, SAC, TQC, TD3 or DDPG with an MLP policy.",
        file=("data", "policy.pth"),
    )
    normalization: str | None = key(
        None,
        "The .npz file of VecNormalize's statistics; null if the policy was trained without VecNormalize.",
    )
    activation: str | None = key(
        None,
        "Activation between the layers; null for the one that the file names, or else SB3's default.",
        choices=("tanh", "relu", "elu", "leaky_relu", "silu", "gelu"),
    )


@component("expert", "saved", "ilt.experts.saved.SavedExpert")
class Saved(AnyExpert):
    """A trained expert from another variant of the environment, such as the one in which nothing is hidden."""

    path: str = key("???", "Its folder, or the name of an expert that comes with the package.")


@component("expert", "function", "ilt.experts.base.FunctionExpert", open=True, code="function")
class Function(AnyExpert):
    """A function from observations to actions, or a class of such functions or policies; its arguments are keys."""

    function: str = key("???", "Its path: package.module:name, or with a dot instead of the colon.")


@component("expert", "heuristic", "ilt.experts.base.HeuristicExpert")
class Heuristic(AnyExpert):
    """The hand-written controller that `env.heuristic` names."""

    controller: str | None = key(None, "Its dotted path; null for `env.heuristic`.")


@component("expert", "random", "ilt.experts.base.RandomExpert")
class Random(AnyExpert):
    """Uniformly random actions."""

    deterministic: bool = key(False, "Has no effect: actions are always random.", identity=False)


@component("expert", "none", "ilt.experts.base.NoExpert")
class NoExpert(AnyExpert):
    """No expert: the demonstrations are recordings, and nobody labels or is compared with the student."""
