"""Training steps: windows gathered in one index and every step supervised, beside the usual way and the arithmetic."""

import time
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ilt.data.datamodule import EpochBatches, WindowLoader
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.models.decoder import Decoder
from ilt.registry import load_option
from ilt.rollout.run import rollout
from ilt.schema import own_keys
from ilt.training.module import ImitationModule
from ilt.training.optimizer import adamw, decay_groups
from tests.benchmarks.measuring import Measure, Row, at_least, compare
from tests.benchmarks.rollouts import HEAD, SPACE, decoder, shipped_expert

BATCH_SIZE = 256


class OneByOne(Dataset[dict[str, Tensor]]):
    """The same windows, one at a time, as such projects do it."""

    def __init__(self, windows: WindowDataset) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._windows[index]


def rows(spec: EnvSpec) -> list[Row]:
    """Labels (supervised steps) per second of `small`, K = 16, in one thread."""
    context_length, n_batches = 16, 12
    episodes = demonstrations(spec)
    model = decoder("small", context_length)
    dataset = WindowDataset(episodes, action_space=SPACE, context_length=context_length)
    usual = DataLoader(OneByOne(dataset), batch_size=BATCH_SIZE, shuffle=True)
    return [
        compare(
            f"train small, K = {context_length}, all positions",
            "labels/s",
            training(model, windows(dataset), n_batches),
            [
                ("arithmetic limit", arithmetic_limit(model, context_length), at_least(0.45)),
                ("item by item, last position", training(model, usual, n_batches, last_only=True), at_least(20)),
            ],
            repeats=5,
        )
    ]


def demonstrations(spec: EnvSpec, n_episodes: int = 50) -> Episodes:
    """Some of the shipped expert's."""
    return rollout(spec, shipped_expert(), spec.seeds("demonstrations", n_episodes))


def windows(dataset: WindowDataset) -> WindowLoader:
    """Batches as `WindowData` makes them."""
    batches = EpochBatches(len(dataset), BATCH_SIZE, seed=0)
    return WindowLoader(dataset, batch_sampler=batches, collate_fn=lambda batch: batch)


def module(model: Decoder) -> ImitationModule:
    """The model with the optimizer of the default run."""
    settings = own_keys("optimizer", load_option("optimizer", "adamw"))
    return ImitationModule(model, HEAD, seed=0, make_optimizer=partial(adamw, **settings))


def training(
    model: Decoder, loader: Iterable[dict[str, Tensor]], n_batches: int, *, last_only: bool = False
) -> Measure:
    """Labels per second over some optimizer steps, and one before that is not counted."""

    def measure() -> float:
        optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=1e-4, fused=True)
        labels, started = 0, 0.0
        for i, batch in zip(range(n_batches + 1), loader, strict=False):
            mask = batch["mask"].clone()
            if last_only:
                mask[:, :-1] = False
            outputs = model(batch["observations"], batch["actions"], batch["mask"])
            loss = HEAD.loss(outputs[mask], batch["actions"][mask])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if i == 0:
                started = time.perf_counter()
            else:
                labels += int(mask.sum())
        return labels / (time.perf_counter() - started)

    return measure


def arithmetic_limit(model: Decoder, context_length: int) -> Measure:
    """Labels per second if a step were nothing but its matrix products, at the rate of a large one."""

    def measure() -> float:
        a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
        seconds = []
        for _ in range(15):
            started = time.perf_counter()
            torch.mm(a, b)
            seconds.append(time.perf_counter() - started)
        return 2 * 1024**3 / sorted(seconds)[7] / flops_per_label(model, context_length)

    return measure


def flops_per_label(model: Decoder, context_length: int) -> float:
    """Floating point operations of a forward and a backward pass, the latter counted as two forward ones.

    Products of linear layers at the tokens where they are computed, and attention over whole windows (Chowdhery et al.
    2022, PaLM, appendix B). Element by element work is not counted.
    """
    n_tokens, d_model = 2 * context_length - 1, model.action_head.in_features
    forward = 2 * context_length * (model.embed_state.weight.numel() + model.action_head.weight.numel())
    for i in range(len(model.blocks)):
        n_read = n_tokens if i < len(model.blocks) - 1 else context_length  # of the last block, the state tokens
        forward += 2 * n_tokens * 3 * d_model**2 + 2 * n_read * 9 * d_model**2  # queries, keys, values; the others
        forward += 2 * 2 * n_read * n_tokens * d_model
    return 3 * forward / context_length
