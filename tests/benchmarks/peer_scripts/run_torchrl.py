"""TorchRL: an MLP (2 × 256) in a plain loop over its replay buffer; the package has no behavior cloning of its own."""

import torch
from numpy import delete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from timing import BATCH_SIZE, demonstrations, last_observations, report, seconds_per_million_labels
from torch.nn.functional import cross_entropy
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.modules import MLP

arrays = demonstrations()
n_steps = len(arrays["actions"])
buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(n_steps), sampler=SamplerWithoutReplacement(), batch_size=BATCH_SIZE
)
observations = delete(arrays["observations"], last_observations(arrays), axis=0)
buffer.extend(TensorDict({"observation": observations, "action": arrays["actions"]}, batch_size=[n_steps]))
mlp = MLP(in_features=8, out_features=4, num_cells=[256, 256])
policy = TensorDictModule(mlp, in_keys=["observation"], out_keys=["logits"])
optimizer = torch.optim.Adam(policy.parameters())


def train(n_batches: int) -> None:
    for _ in range(n_batches):
        batch = policy(buffer.sample())
        loss = cross_entropy(batch["logits"], batch["action"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


report(train={"TorchRL, bare loop": seconds_per_million_labels(train)})
