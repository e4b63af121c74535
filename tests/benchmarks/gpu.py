"""Training on a GPU: `python -m tests.benchmarks only=gpu_steps,gpu_attention,gpu_runs` on a machine that has one.

Steps are timed under Lightning, with clipping, schedule and weight averaging. Data is random, since values change
nothing about speed. Steps and runs take about three minutes; attention has not run in this form.
"""

import functools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.data.datamodule import WindowData
from ilt.envs.spec import EnvSpec
from ilt.models.attention import causal_attention, fused_attention
from ilt.models.decoder import Decoder
from ilt.registry import load_option
from ilt.schema import own_keys
from ilt.training.callbacks import EMA, LearningCurve
from ilt.training.module import ImitationModule
from ilt.training.optimizer import adamw
from tests.benchmarks.commands import ilt_train
from tests.benchmarks.measuring import Beside, Measure, Row, announced, compare
from tests.benchmarks.rollouts import HEAD, SPACE
from tests.benchmarks.training import random_windows

WARM_UP, N_STEPS, TIMES = 20, 100, 5
"""Steps before the clock starts, steps of a measurement, and measurements."""


def gpu_steps(spec: EnvSpec) -> list[Row]:
    """Measure milliseconds per step of 256 windows: in a graph, compiled or not, and with kernels one by one."""
    rows = []
    for size, k, bar in (("tiny", 8, 0.8), ("small", 16, 1.6), ("base", 64, 5.0)):
        ours = step_ms(size, k, compiled=True)
        plain = step_ms(size, k, compiled=False)
        slow = step_ms(size, k, compiled=False, graphed=False)
        besides = [
            Beside("at most", [bar] * TIMES, "≤ 1"),
            Beside("not compiled", plain, None),
            Beside("kernels one by one", slow, None),
        ]
        rows.append(announced(Row(f"a step of {size}, K = {k}", "ms", ours, besides)))
    return rows


def step_ms(
    size: str,
    context_length: int,
    *,
    compiled: bool,
    graphed: bool = True,
    batch_size: int = 256,
    precision: Any = "bf16-mixed",
    **changes: Any,
) -> list[float]:
    """Measure the milliseconds of a training step several times, after some that are not counted."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    dataset, clock = random_windows(context_length), _Clock()
    model = decoder(size, context_length, **changes)
    settings = own_keys("optimizer", load_option("optimizer", "adamw"))
    clip = functools.partial(torch.nn.utils.clip_grad_norm_, max_norm=1.0, foreach=True)
    module = ImitationModule(
        model,
        HEAD,
        seed=0,
        make_optimizer=functools.partial(adamw, **settings),
        compiled=compiled,
        clip=clip if graphed else None,
    )
    data = WindowData(dataset, dataset, batch_size=batch_size, seed=0)
    data.as_indices = graphed
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_steps=WARM_UP + TIMES * N_STEPS,
        gradient_clip_val=None if graphed else 1.0,
        limit_val_batches=0,
        callbacks=[EMA(decay=0.995), LearningCurve(), clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return clock.milliseconds


class _Clock(pl.Callback):
    """Measures the milliseconds of a step, on average over `N_STEPS`."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        done = trainer.global_step - WARM_UP
        if done >= 0 and done % N_STEPS == 0:
            torch.cuda.synchronize()
            if done > 0:
                self.milliseconds.append(1000 * (time.perf_counter() - self._started) / N_STEPS)
            self._started = time.perf_counter()


def decoder(size: str, context_length: int, **changes: Any) -> Decoder:
    """Return a transformer of a config's size for the lander's observations and actions."""
    torch.manual_seed(0)
    task = {"observation_dim": 8, "action_space": SPACE, "n_outputs": HEAD.n_outputs, "context_length": context_length}
    return Decoder(**{**task, **own_keys("model", load_option("model", size)), **changes})


# --- attention ---


def gpu_attention(spec: EnvSpec) -> list[Row]:
    """Measure attention of `base` over 16,384 steps, forward and backward, and training steps with long windows."""
    rows = [_attention(k) for k in (64, 256, 1024)]
    step = functools.partial(step_ms, "base", 1024, compiled=True, batch_size=16)
    full = Beside("attention=full", step(attention="full"), None)
    rows.append(announced(Row("a step of base, K = 1,024, 16 windows", "ms", step(), [full])))
    return rows


def _attention(context_length: int) -> Row:
    model = decoder("base", context_length).cuda()
    shape = 16_384 // context_length, model.blocks[0].n_head, model.attn_mask.shape[-1], model.head_dim
    parts = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    band = functools.partial(fused_attention, attn_mask=model.attn_mask[0], dropout=0.0)
    full = _graph_ms(functools.partial(causal_attention, dropout=0.0), parts)
    bar = "≤ 0.33" if context_length == 1024 else "≤ 1" if context_length == 64 else None
    return compare(
        f"attention in a band, base, K = {context_length}", "ms", _graph_ms(band, parts), ("all past tokens", full, bar)
    )


def _graph_ms(attend: Callable[..., Tensor], parts: list[Tensor]) -> Measure:
    """Measure milliseconds of attention and its gradients, replayed as a graph."""

    def once() -> None:
        y = attend(*parts)
        torch.autograd.grad(y, parts, y.detach())

    def measure() -> float:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                once()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
        times = []
        for _ in range(20):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)

    return measure


# --- whole runs ---


def gpu_runs(spec: EnvSpec) -> list[Row]:
    """Measure the seconds of whole runs, without a video."""
    rows = []
    for given, limit in (("", 20), ("experiment=adapt", 30)):
        run = functools.partial(_whole, given)
        rows.append(compare(f"ilt train trainer=gpu {given}", "s", run, ("at most", limit, "≤ 1"), repeats=1))
    return rows


def _whole(*arguments: str) -> float:
    """Train and score in an empty folder; print what took how long, and the return."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [argument for argument in arguments if argument]
        ilt_train(f"outputs={folder}", "run_name=run", "trainer=gpu", "logger=none", "evaluation.video=false", *chosen)
        results = json.loads((Path(folder) / "runs" / "run" / "results.json").read_text())
    print({name: round(value, 1) for name, value in results["seconds"].items()}, results["return_mean"])  # noqa: T201
    return results["seconds"]["total"]
