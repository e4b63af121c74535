"""Training on a GPU: `python -m tests.benchmarks only=gpu` on a machine that has one (about five minutes).

Steps are timed under Lightning, with clipping, schedule and weight averaging. Data is random, since values change
nothing about speed.
"""

import functools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.models.attention import EVERY, block_sparse_attention, causal_attention, fused_attention
from ilt.models.decoder import Decoder
from ilt.registry import load_option
from ilt.schema import own_keys
from ilt.training.callbacks import EMA, LearningCurve
from ilt.training.module import ImitationModule
from ilt.training.optimizer import adamw
from tests.benchmarks.commands import ilt_train
from tests.benchmarks.measuring import Measure, Row, compare
from tests.benchmarks.rollouts import HEAD, SPACE, decoder

WARM_UP, N_STEPS = 20, 220
TIMES = 3


def gpu(spec: EnvSpec) -> list[Row]:
    """Measure training steps, attention in a band, and whole runs."""
    if not torch.cuda.is_available():
        raise SystemExit("only=gpu needs a GPU")
    return [*steps(), *attention(), *runs()]


def steps() -> list[Row]:
    """Measure milliseconds per step of 256 windows, in a graph and with kernels started one by one."""
    rows = []
    for size, k, bar in (("tiny", 8, 0.8), ("small", 16, 1.6), ("base", 64, 5.0)):
        step = functools.partial(step_ms, size, k)
        besides: list[tuple[str, Measure | float, str | None]] = [
            ("at most", bar, "≤ 1"),
            ("graph, not compiled", functools.partial(step, compiled=False), None),
            ("one by one", functools.partial(step, compiled=False, graphed=False, n_steps=60), None),
        ]
        rows.append(
            compare(f"a step of {size}, K = {k}", "ms", functools.partial(step, compiled=True), *besides, repeats=TIMES)
        )
    return rows


def step_ms(
    size: str,
    context_length: int,
    *,
    compiled: bool,
    graphed: bool = True,
    batch_size: int = 256,
    n_steps: int = N_STEPS,
    precision: Any = "bf16-mixed",
    **changes: Any,
) -> float:
    """Measure the milliseconds of a training step, after some that are not counted."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    dataset, clock = random_windows(context_length), _Clock(n_steps)
    model = decoder(size, context_length) if not changes else _changed(size, context_length, **changes)
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
    data.as_numbers = graphed
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_steps=n_steps,
        gradient_clip_val=None if graphed else 1.0,
        limit_val_batches=0,
        callbacks=[EMA(decay=0.995), LearningCurve(), clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return 1000 * clock.seconds


class _Clock(pl.Callback):
    """Measures the seconds of a step after the warm-up."""

    def __init__(self, n_steps: int) -> None:
        self._n_steps = n_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in (WARM_UP, self._n_steps):
            torch.cuda.synchronize()
            if trainer.global_step == WARM_UP:
                self._started = time.perf_counter()
            else:
                self.seconds = (time.perf_counter() - self._started) / (self._n_steps - WARM_UP)


def _changed(size: str, context_length: int, **changes: Any) -> Decoder:
    sizes = own_keys("model", load_option("model", size))
    return Decoder(
        **{
            "observation_dim": 8,
            "action_space": SPACE,
            "n_outputs": HEAD.n_outputs,
            "context_length": context_length,
            **sizes,
            **changes,
        }
    )


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


# --- attention ---


def attention() -> list[Row]:
    """Measure attention of `base` over 16,384 steps, forward and backward, in windows of different lengths."""
    rows = [_attention(64, "≤ 1"), _attention(256, None), _attention(1024, "≤ 0.33")]
    for k in (256, 1024):
        step = functools.partial(step_ms, "base", k, compiled=True, batch_size=16_384 // k, n_steps=80)
        full = functools.partial(step, attention="full")
        rows.append(
            compare(
                f"a step of base, K = {k}, {16_384 // k} windows", "ms", step, ("attention=full", full, None), repeats=1
            )
        )
    return rows


def _attention(context_length: int, bar: str | None) -> Row:
    model = decoder("base", context_length).cuda()
    n_tokens = model.attn_mask.shape[-1]
    shape = 16_384 // context_length, model.blocks[0].n_head, n_tokens, model.head_dim
    parts = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    block_mask = model._block_mask(EVERY, model.window_sizes[0])
    ours = functools.partial(torch.compile(block_sparse_attention, dynamic=False), block_mask=block_mask, dropout=0.0)
    masked = functools.partial(fused_attention, attn_mask=model.attn_mask[0], dropout=0.0)
    causal = functools.partial(causal_attention, dropout=0.0)
    besides = ("all tokens, masked", _graph_ms(masked, parts), bar), ("all past tokens", _graph_ms(causal, parts), None)
    return compare(f"attention of base, K = {context_length}", "ms", _graph_ms(ours, parts), *besides, repeats=TIMES)


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


def runs() -> list[Row]:
    """Measure the seconds of whole runs, with the return that they end with."""
    limits: Iterable[tuple[str, list[str], float]] = [
        ("ilt train trainer=gpu", [], 20),
        ("ilt train trainer=gpu experiment=adapt", ["experiment=adapt"], 30),
    ]
    return [
        compare(name, "s", functools.partial(whole, *arguments), ("at most", limit, "≤ 1"), repeats=1)
        for name, arguments, limit in limits
    ]


def whole(*arguments: str) -> float:
    """Train and score in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        ilt_train(f"outputs={folder}", "run_name=run", "trainer=gpu", "logger=none", *arguments)
        results = json.loads((Path(folder) / "runs" / "run" / "results.json").read_text())
    seconds = results["seconds"]
    print({name: round(value, 1) for name, value in seconds.items()}, round(results["return_mean"], 1))  # noqa: T201
    return seconds["total"]
