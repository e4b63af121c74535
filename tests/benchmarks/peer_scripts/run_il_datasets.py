"""IL-Datasets: behavior cloning with its default MLP (2 × 32), on the DataLoader of its own dataset."""

from tempfile import mkdtemp

import gymnasium as gym
import numpy as np
import torch
from timing import BATCH_SIZE, demonstrations, last_observations, report, seconds_per_million_labels
from torch.utils.data import DataLoader, RandomSampler

try:
    import torchvision  # noqa: F401 (IL-Datasets imports it, for images)
except RuntimeError:  # its wheel, which needs CUDA, does not register these operators beside a CPU wheel of PyTorch
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from imitation_datasets.baselines.methods import BC
from imitation_datasets.dataset import BaselineDataset

arrays = demonstrations()
starts = np.zeros(len(arrays["actions"]))
starts[arrays["lengths"].cumsum() - arrays["lengths"]] = 1
returns = np.add.reduceat(arrays["rewards"], np.flatnonzero(starts))
np.savez(
    "teacher.npz",
    obs=np.delete(arrays["observations"], last_observations(arrays), axis=0),
    actions=arrays["actions"],
    rewards=arrays["rewards"],
    episode_starts=starts,
    episode_returns=returns,
)
dataset = BaselineDataset("teacher.npz")
with open("bc.yaml", "w") as file:  # its wheel lacks this file; these are the defaults in its repository
    file.write("Default: {lr: 5e-4, policy: MlpPolicy}")
bc = BC(gym.make("LunarLander-v3", disable_env_checker=True), config_file="bc.yaml")


def train(n_batches: int) -> None:
    batches = RandomSampler(dataset, num_samples=n_batches * BATCH_SIZE)
    # its logger needs a new folder for each call
    bc.train(1, DataLoader(dataset, batch_size=BATCH_SIZE, sampler=batches), folder=mkdtemp(dir="."))


report(train={"IL-Datasets BC": seconds_per_million_labels(train)})
