"""Check that a model meets the contract of `ilt.models.base`; call this in the first test of a new model."""

import copy

import numpy as np
import torch
from torch import Tensor

from ilt.models.base import SequenceModel
from ilt.models.steppers import stepper_of


def check_model(model: SequenceModel, *, n_steps: int | None = None) -> None:
    """Raise ValueError, saying what is wrong, unless a model meets the contract of `SequenceModel`.

    No observation or action may change an earlier output. Padding must change nothing. Stepping must equal the full
    pass to 1e-5, and so must a long window if the model slides. Every parameter must get a gradient. Training or
    evaluation mode must be left as it was. The check uses a copy with randomly perturbed weights, because a weight of
    zero would hide dependencies.

    Args:
        model: the model.
        n_steps: length of the random episodes; None for 2 K + 3, so that windows slide.
    """
    if not isinstance(model, SequenceModel):
        raise ValueError(f"a model must be a subclass of ilt.SequenceModel, got {type(model).__name__}")
    n_steps = 2 * model.context_length + 3 if n_steps is None else n_steps
    length = n_steps if model.recurrent else min(n_steps, model.context_length)
    model, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
        _check_windows(model, length)
        if model.slides:
            _check_sliding(model, n_steps)
        _check_stepping(model, n_steps)
    _check_gradients(model.train(), length)


def _check_windows(model: SequenceModel, length: int) -> None:
    """Check causality and padding by replacing everything after a step, with one row for each step."""
    observations, actions = (part.expand(length, *part.shape[1:]) for part in _make_up(model, 1, length))
    others, other_actions = _make_up(model, length, length, seed=1)
    before, steps = _outputs(model, observations, actions), torch.arange(length)
    past, earlier = steps <= steps[:, None], steps < steps[:, None]
    later_actions = torch.where(earlier if actions.ndim == 2 else earlier[..., None], actions, other_actions)
    later_observations = torch.where(past[..., None], observations, 10 * others)
    for fault, outputs in {
        "an observation must not change earlier outputs": _outputs(model, later_observations, actions),
        "an action must change no output before the next step": _outputs(model, observations, later_actions),
        "padding must not change outputs": _outputs(model, later_observations, later_actions, past),
    }.items():
        if not torch.allclose(outputs[past], before[past], atol=1e-5, rtol=1e-5):
            raise ValueError(f"forward: {fault}")


def _check_stepping(model: SequenceModel, n_steps: int) -> None:
    """Step through four episodes in three slots. One starts late, and one replaces another in its slot."""
    observations, actions = _make_up(model, 4, n_steps)
    k = n_steps if model.recurrent else model.context_length
    expected = _full_pass(model, observations, actions, k).numpy()
    begins = {(0, 0): 3, (0, 1): 0, (2, 2): 7, (n_steps // 2, 3): 3}  # (tick, episode): slot
    stepper = stepper_of(model.train(), context_length=model.context_length)
    active: dict[int, tuple[int, int]] = {}  # slot: episode, first tick
    for tick in range(n_steps):
        if starting := {slot: (episode, tick) for (start, episode), slot in begins.items() if start == tick}:
            stepper.reset(np.array(list(starting)))
            active |= starting
        slots = np.array(sorted(active, reverse=tick % 2 == 1))
        which, steps = np.array([(active[slot][0], tick - active[slot][1]) for slot in slots.tolist()]).T
        previous = actions[which, steps - 1].numpy()  # arbitrary at the start of an episode
        outputs, wanted = stepper.step(slots, observations[which, steps].numpy(), previous), expected[which, steps]
        if outputs.shape != wanted.shape:
            raise ValueError(f"stepping must return shape (n, n_outputs) = {wanted.shape}, got {outputs.shape}")
        if not np.allclose(outputs, wanted, atol=1e-5, rtol=1e-5):
            error, step = np.abs(outputs - wanted), steps[np.abs(outputs - wanted).max(axis=1).argmax()]
            raise ValueError(f"stepping must equal the full pass, but is off by {error.max():.2g} at step {step}")
    if not all(module.training for module in model.modules()):
        raise ValueError("stepping must leave the model in the mode it was in, but training mode was turned off")


def _check_sliding(model: SequenceModel, n_steps: int) -> None:
    """Compare the outputs of long windows with those of the last K steps before each output."""
    episodes = _make_up(model, 4, n_steps)
    outputs, expected = _outputs(model, *episodes), _full_pass(model, *episodes, model.context_length)
    if not torch.allclose(outputs, expected, atol=1e-5, rtol=1e-5):
        error = (outputs - expected).abs().max()
        raise ValueError(
            f"slides: outputs of long windows must depend on the last K steps only, but differ by {error:.2g}"
        )


def _full_pass(model: SequenceModel, observations: Tensor, actions: Tensor, k: int) -> Tensor:
    """Compute outputs (B, T, n_outputs) for whole episodes, each from the last k steps."""
    parts = [_outputs(model, observations[:, :k], actions[:, :k])]
    for end in range(k + 1, observations.shape[1] + 1):
        parts.append(_outputs(model, observations[:, end - k : end], actions[:, end - k : end])[:, -1:])
    return torch.cat(parts, dim=1)


def _check_gradients(model: SequenceModel, length: int) -> None:
    outputs = _outputs(model, *_make_up(model, 16, length))
    (outputs * torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, parameter in model.named_parameters():
        unused = parameter.grad is None or (length > 1 and not parameter.grad.any())  # one step has no past action
        if parameter.requires_grad and unused:
            raise ValueError(f"{name} gets no gradient, so it is never trained")


def _make_up(model: SequenceModel, n: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Generate observations (n, length, obs_dim), and actions (n, length[, dim]) in model units."""
    rng, space = np.random.default_rng(seed), model.action_space
    actions = space.encode(space.sample(rng.random((n * length, space.dim))))
    observations = rng.normal(size=(n, length, model.observation_dim)).astype(np.float32)
    return torch.from_numpy(observations), torch.from_numpy(actions.reshape(n, length, *actions.shape[1:]))


def _outputs(model: SequenceModel, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
    given = [None if part is None else part.to(model.observation_mean.device) for part in (observations, actions, mask)]
    outputs, wanted = model(*given), (*observations.shape[:2], model.n_outputs)
    if outputs.shape != wanted or not outputs.isfinite().all():
        got = f"{outputs.dtype} of {tuple(outputs.shape)}"
        raise ValueError(f"forward must return finite numbers of shape (B, L, n_outputs) = {wanted}, got {got}")
    return outputs.cpu()
