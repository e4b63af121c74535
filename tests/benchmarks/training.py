"""Training steps, compared with the usual data loading, the arithmetic limit, and a loop without Lightning."""

import functools
import logging
import statistics
import time
import warnings
from collections.abc import Iterable
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ilt.data.datamodule import EpochBatches, WindowData, WindowLoader
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.models.decoder import Decoder
from ilt.registry import load_option
from ilt.rollout.run import rollout
from ilt.schema import own_keys
from ilt.training.callbacks import EMA, LearningCurve
from ilt.training.module import ImitationModule
from ilt.training.optimizer import adamw, decay_groups
from tests.benchmarks.measuring import Measure, Row, compare, per_second, seconds
from tests.benchmarks.rollouts import HEAD, SPACE, decoder, shipped_expert

BATCH_SIZE = 256
N_STEPS, WARM_UP = 150, 10
"""Steps of the Lightning row; the warm-up steps are not counted."""


def train(spec: EnvSpec) -> list[Row]:
    """Measure the labels (supervised steps) per second of `small`, K = 16, in one thread.

    Ours gathers a batch of windows with one indexing operation, and supervises every step.
    """
    model, dataset = decoder("small", 16), windows(spec, 16)
    usual = DataLoader(
        range(len(dataset)),
        batch_size=BATCH_SIZE,
        shuffle=True,
        collate_fn=lambda batch: default_collate([dataset[i] for i in batch]),  # one at a time, as is common
    )
    return [
        compare(
            "train small, K = 16, all positions",
            "labels/s",
            training(model, loader(dataset), 12),
            ("arithmetic limit", arithmetic_limit(model, 16), "≥ 0.5"),
            ("item by item, last position", training(model, usual, 12, last_only=True), "≥ 20"),
            repeats=5,
        )
    ]


def windows(spec: EnvSpec, context_length: int) -> WindowDataset:
    """Return the windows of 50 demonstrations of the shipped expert."""
    episodes = rollout(spec, shipped_expert(), spec.seeds("demonstrations", 50))
    return WindowDataset(episodes, action_space=SPACE, context_length=context_length)


@functools.cache
def random_windows(context_length: int) -> WindowDataset:
    """Return the windows of 200,000 random steps, in episodes without padding."""
    length = max(400, context_length)
    n, rng = 200_000 // length, np.random.default_rng(0)
    episodes = Episodes(
        observations=rng.standard_normal((n * (length + 1), 8)).astype(np.float32),
        actions=rng.integers(0, 4, n * length),
        rewards=np.zeros(n * length),
        lengths=np.full(n, length),
        terminated=np.ones(n, dtype=bool),
        truncated=np.zeros(n, dtype=bool),
        seeds=np.arange(n),
    )
    return WindowDataset(episodes, action_space=SPACE, context_length=context_length)


def loader(dataset: WindowDataset, batch_size: int = BATCH_SIZE) -> WindowLoader:
    """Return batches as `WindowData` makes them."""
    batches = EpochBatches(len(dataset), batch_size, seed=0)
    return WindowLoader(dataset, batch_sampler=batches, collate_fn=lambda batch: batch)


def module(model: Decoder) -> ImitationModule:
    """Return the model with the optimizer of the default run."""
    settings = own_keys("optimizer", load_option("optimizer", "adamw"))
    return ImitationModule(model, HEAD, seed=0, make_optimizer=partial(adamw, **settings))


def training(model: Decoder, loader: Iterable[Any], n_batches: int, *, last_only: bool = False) -> Measure:
    """Measure the labels per second over `n_batches` optimizer steps, after one that is not counted."""

    def measure() -> float:
        optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=1e-4, fused=True)
        batches = islice(loader, n_batches + 1)
        step(model, optimizer, next(batches), last_only=last_only)
        return per_second(lambda: sum(step(model, optimizer, each, last_only=last_only) for each in batches))()

    return measure


def step(model: Decoder, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], *, last_only: bool = False) -> int:
    """Update the model; return the number of labels."""
    mask = batch["mask"].clone()
    if last_only:
        mask[:, :-1] = False
    outputs = model(batch["observations"], batch["actions"], batch["mask"])
    optimizer.zero_grad(set_to_none=True)
    HEAD.loss(outputs[mask], batch["actions"][mask]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return int(mask.sum())


def arithmetic_limit(model: Decoder, context_length: int) -> Measure:
    """Measure the labels per second if a step were only its matrix products, at the rate of a large product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    product, labels = seconds(lambda: torch.mm(a, b)), 2 * 1024**3 / flops_per_label(model, context_length)
    return lambda: labels / statistics.median(product() for _ in range(15))


def flops_per_label(model: Decoder, context_length: int) -> float:
    """Return the floating point operations of a forward and a backward pass; the latter counts as two forward passes.

    They are the products of linear layers at the tokens where they are computed, and attention over whole windows
    (Chowdhery et al. 2022, PaLM, appendix B). Elementwise operations are not counted.
    """
    n_tokens, d_model = 2 * context_length - 1, model.action_head.in_features
    forward = 2 * context_length * (model.embed_state.weight.numel() + model.action_head.weight.numel())
    for i in range(len(model.blocks)):
        n_read = n_tokens if i < len(model.blocks) - 1 else context_length  # the last block reads only state tokens
        forward += 2 * n_tokens * 3 * d_model**2 + 2 * n_read * 9 * d_model**2  # queries, keys, values; then the rest
        forward += 2 * 2 * n_read * n_tokens * d_model
    return 3 * forward / context_length


# --- the overhead of Lightning ---


class _Clock(pl.Callback):
    """Measures the seconds of a step after the warm-up."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self._started = time.perf_counter()
        if trainer.global_step == N_STEPS:
            self.seconds = (time.perf_counter() - self._started) / (N_STEPS - WARM_UP)


def lightning(spec: EnvSpec) -> list[Row]:
    """Measure milliseconds per step of `tiny`, K = 8, with clipping, schedule and weight averaging in both loops."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for expected in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*"):
        warnings.filterwarnings("ignore", message=expected)
    dataset = windows(spec, 8)

    def with_lightning() -> float:
        clock = _Clock()
        trainer = quiet_trainer(
            max_steps=N_STEPS,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            callbacks=[EMA(decay=0.995), LearningCurve(), clock],
        )
        trainer.fit(module(decoder("tiny", 8)), WindowData(dataset, dataset, batch_size=BATCH_SIZE, seed=0))
        return 1000 * clock.seconds

    def bare() -> float:
        model = decoder("tiny", 8)
        parameters = list(model.parameters())
        averaged = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        started = 0.0
        epochs = repeat(EpochBatches(len(dataset), BATCH_SIZE, seed=0))
        for n, indices in enumerate(islice(chain.from_iterable(epochs), N_STEPS)):
            if n == WARM_UP:
                started = time.perf_counter()
            step(model, optimizer, dataset.__getitems__(indices))
            schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(averaged, parameters, 0.005)
        return 1000 * (time.perf_counter() - started) / (N_STEPS - WARM_UP)

    beside = "bare loop", bare, "≤ 1.15"
    return [compare("a step of tiny, K = 8, under Lightning", "ms", with_lightning, beside, repeats=5)]


def quiet_trainer(**options: Any) -> pl.Trainer:
    """Return a trainer that displays and saves nothing."""
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options)
