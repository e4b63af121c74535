"""Training: batches gathered in one index with every step supervised, beside one window at a time."""

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ilt.demos import WindowDataset
from ilt.envs import EnvSpec
from ilt.envs.heuristics import lunar_lander
from ilt.learning.data import EpochBatches, WindowLoader
from ilt.learning.module import cloning_loss
from ilt.models import Decoder
from ilt.rollouts import FunctionPolicy, rollout
from tests.benchmarks.measuring import Row, compare

STEPS = 20


class OneByOne(Dataset[dict[str, Tensor]]):
    """The same windows, without the batched access."""

    def __init__(self, windows: WindowDataset) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._windows[index]


def rows(spec: EnvSpec) -> list[Row]:
    """Supervised steps (labels) per second of `small`, K = 16."""
    torch.manual_seed(0)
    episodes = rollout(spec, FunctionPolicy(lunar_lander), spec.seeds("demonstrations", 20))
    windows = WindowDataset(episodes, context_length=16)
    model = Decoder(observation_dim=8, n_actions=4, context_length=16, n_layer=4, n_head=4, d_model=64)

    def ours() -> float:
        batches = EpochBatches(len(windows), 256, seed=0)
        loader = WindowLoader(windows, batch_sampler=batches, collate_fn=lambda batch: batch)
        return label_rate(model, loader, last_only=False)

    def theirs() -> float:
        return label_rate(model, DataLoader(OneByOne(windows), batch_size=256, shuffle=True), last_only=True)

    work, reference = "train `small`, K = 16, all positions", "item by item, last position only"
    return [compare(work, ours, reference, theirs, unit="labels")]


def label_rate(model: Decoder, loader: Iterable[dict[str, Tensor]], *, last_only: bool) -> float:
    """Labels per second over a few optimiser steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labels, started = 0, time.perf_counter()
    for batch in first(loader, STEPS):
        mask = batch["mask"].clone()
        if last_only:
            mask[:, :-1] = False
        logits = model(batch["observations"], batch["actions"], batch["mask"])
        loss = cloning_loss(logits, batch["actions"], mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        labels += int(mask.sum())
    return labels / (time.perf_counter() - started)


def first(batches: Iterable[dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
    """The first `count` batches."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
