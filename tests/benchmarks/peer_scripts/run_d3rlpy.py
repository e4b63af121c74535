"""d3rlpy: a Decision Transformer of the size of `tiny`, K = 8, and behavior cloning with its default MLP (2 × 256).

A Decision Transformer has three tokens per step, ilt two. Every position of a batch counts as a label, including the
padded ones, since d3rlpy computes the loss there too. In evaluations, d3rlpy runs one env and recomputes the window in
every step; it has no batched or cached acting for transformers.
"""

import time
from typing import Any

from d3rlpy.algos import DiscreteBCConfig, DiscreteDecisionTransformerConfig, GreedyTransformerActionSampler
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.metrics import evaluate_transformer_with_environment
from d3rlpy.models import VectorEncoderFactory
from numpy import delete, zeros
from recorded import RecordedEpisodes
from timing import BATCH_SIZE, demonstrations, last_observations, report, seconds_per_million_labels

CONTEXT_LENGTH, N_EPISODES = 8, 60

arrays = demonstrations()
ends = zeros(len(arrays["actions"]))
ends[arrays["lengths"].cumsum() - 1] = 1
dataset = MDPDataset(
    observations=delete(arrays["observations"], last_observations(arrays), axis=0),
    actions=arrays["actions"],
    rewards=arrays["rewards"],
    terminals=ends,
)
transformer = DiscreteDecisionTransformerConfig(
    batch_size=BATCH_SIZE,
    context_size=CONTEXT_LENGTH,
    num_layers=2,
    num_heads=2,
    attn_dropout=0.0,  # as in `tiny`
    resid_dropout=0.0,
    embed_dropout=0.0,
    encoder_factory=VectorEncoderFactory(hidden_units=[32]),  # its output is as wide as the transformer
).create()
mlp = DiscreteBCConfig(batch_size=BATCH_SIZE).create()


def seconds_of(algorithm: Any, labels_per_batch: int) -> float:
    def train(n_batches: int) -> None:
        quiet = {"logger_adapter": NoopAdapterFactory(), "show_progress": False}
        algorithm.fit(dataset, n_steps=n_batches, n_steps_per_epoch=n_batches, **quiet)

    return seconds_per_million_labels(train, labels_per_batch)


def steps_per_second() -> float:
    env = RecordedEpisodes("LunarLander-v3", arrays, range(N_EPISODES))
    policy = transformer.as_stateful_wrapper(target_return=250, action_sampler=GreedyTransformerActionSampler())
    evaluate_transformer_with_environment(policy, env, n_trials=1)
    warm_up, started = env.n_steps, time.perf_counter()
    evaluate_transformer_with_environment(policy, env, n_trials=N_EPISODES)
    return (env.n_steps - warm_up) / (time.perf_counter() - started)


report(
    train={
        "d3rlpy Decision Transformer": seconds_of(transformer, BATCH_SIZE * CONTEXT_LENGTH),
        "d3rlpy BC": seconds_of(mlp, BATCH_SIZE),
    },
    evaluate={"d3rlpy Decision Transformer": steps_per_second()},
)
