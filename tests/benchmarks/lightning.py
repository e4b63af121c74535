"""What Lightning costs: a training step of the default experiment under its trainer, beside a bare loop."""

import logging
import time
import warnings
from itertools import chain, islice, repeat
from typing import Any

import pytorch_lightning as pl
import torch

from ilt.data.datamodule import EpochBatches, WindowData
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.training.callbacks import EMA, LearningCurve
from ilt.training.optimizer import decay_groups
from tests.benchmarks.measuring import Row, at_most, compare
from tests.benchmarks.rollouts import HEAD, SPACE, decoder
from tests.benchmarks.train import BATCH_SIZE, demonstrations, module

N_STEPS, WARM_UP = 150, 10


class _Clock(pl.Callback):
    """Seconds of a step, without the first ones."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self._started = time.perf_counter()
        if trainer.global_step == N_STEPS:
            self.seconds = (time.perf_counter() - self._started) / (N_STEPS - WARM_UP)


def rows(spec: EnvSpec) -> list[Row]:
    """Milliseconds per step of `tiny`, K = 8, with clipping, schedule and weight averaging in both."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for expected in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*"):
        warnings.filterwarnings("ignore", message=expected)
    windows = WindowDataset(demonstrations(spec), action_space=SPACE, context_length=8)

    def with_lightning() -> float:
        clock = _Clock()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=N_STEPS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            limit_val_batches=0,
            callbacks=[EMA(decay=0.995), LearningCurve(), clock],
        )
        trainer.fit(module(decoder("tiny", 8)), WindowData(windows, windows, batch_size=BATCH_SIZE, seed=0))
        return 1000 * clock.seconds

    def bare() -> float:
        model = decoder("tiny", 8)
        parameters = list(model.parameters())
        averaged = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=3e-3, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        started = 0.0
        epochs = repeat(EpochBatches(len(windows), BATCH_SIZE, seed=0))
        for step, indices in enumerate(islice(chain.from_iterable(epochs), N_STEPS)):
            if step == WARM_UP:
                started = time.perf_counter()
            batch = windows.__getitems__(indices)
            outputs, mask = model(batch["observations"], batch["actions"], batch["mask"]), batch["mask"]
            optimizer.zero_grad(set_to_none=True)
            HEAD.loss(outputs[mask], batch["actions"][mask]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(averaged, parameters, 0.005)
        return 1000 * (time.perf_counter() - started) / (N_STEPS - WARM_UP)

    return [
        compare(
            "a step of tiny, K = 8, under Lightning",
            "ms",
            with_lightning,
            [("bare loop", bare, at_most(1.15))],
            repeats=5,
        )
    ]
