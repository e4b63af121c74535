"""Training steps as one call, which a GPU replays as a CUDA graph: equal to Lightning's, also on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.models.chunks import ActionChunks
from ilt.models.decoder import Decoder
from ilt.models.heads import ActionHead, Categorical, Discretized, Gaussian, GaussianMixture, Regression
from ilt.models.recurrent import Recurrent
from ilt.training import fit as training
from ilt.training.fit import Fitted
from ilt.training.graphed import WARM_UP, GraphedStep, is_compiled, obstacle, set_capturable
from ilt.training.module import mean_loss, seed_draws
from tests.imitation.test_algorithms import fit, toy
from tests.training.toy_training import (
    Follow,
    Interrupt,
    by_steps,
    decoder,
    demonstrations,
    train,
    train_config,
)

EACH_LOSS = ["trainer.log_every_n_steps=1", "callbacks.ema.decay=0.8", "optimizer.learning_rate=0.03"]
GPU = pytest.param("gpu", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU make training steps as a GPU does."""
    found = obstacle
    monkeypatch.setattr(
        training, "obstacle", lambda *given: None if (why := found(*given)) == "the device is not a GPU" else why
    )


def trained(folder: Path, device: str, *overrides: str) -> tuple[dict[str, Any], Fitted]:
    folder.mkdir()
    cfg = train_config(folder, f"trainer.accelerator={device}", *EACH_LOSS, *overrides)
    return train(cfg, folder / "run", demonstrations(folder))


def assert_close(one: tuple[dict[str, Any], Fitted], other: tuple[dict[str, Any], Fitted], atol: float) -> None:
    """Compare weights, averaged weights, the learning rate, and losses at every step.

    The biases of keys have no effect, so their gradients, and with AdamW their updates, are only rounding.
    """
    for kind in {"current_model_state", "state_dict"} & one[0].keys():
        weights = [{k: v for k, v in kept[0][kind].items() if not k.endswith("qkv.bias")} for kept in (one, other)]
        torch.testing.assert_close(*weights, atol=atol, rtol=atol, check_device=False)
    assert one[0]["global_step"] == other[0]["global_step"]
    rates = [[float(group["lr"]) for group in kept[0]["optimizer_states"][0]["param_groups"]] for kept in (one, other)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)
    losses = [[row["train/loss"] for row in fitted.rows if "train/loss" in row] for _, fitted in (one, other)]
    assert losses[0] == pytest.approx(losses[1], abs=atol)
    assert len(losses[0]) == one[0]["global_step"]


CASES = [
    [],
    ["model.dropout=0.2", "model.action_dropout=0.3"],
    ["trainer.gradient_clip_val=0.1", "trainer.gradient_clip_algorithm=value"],
    ["trainer.gradient_clip_val=null"],
    ["dataset.context_length=16", "dataset.batch_size=3"],  # every window is padded
    ["head.chunk=3"],
    ["model=mlp"],
    ["callbacks.ema=null"],
]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
@pytest.mark.usefixtures("anywhere")
def test_it_trains_as_lightning_does(overrides: list[str], device: str, tmp_path: Path) -> None:
    changes = [*by_steps(4), *overrides]
    ours = trained(tmp_path / "ours", device, *changes, "trainer.compile=auto")
    plain = trained(tmp_path / "plain", device, *changes, "trainer.compile=false")
    random = "dropout" in " ".join(overrides) and device == "gpu"  # a graph counts its random numbers differently
    assert_close(ours, plain, atol=0.5 if random else 1e-4)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.usefixtures("anywhere")
def test_double_precision_includes_what_is_gathered(device: str, tmp_path: Path) -> None:
    results, env = [], f"{Follow.__module__}:ilt-toys/Follow-v0"
    for compile in ("auto", "false"):
        (folder := tmp_path / compile).mkdir()
        choices = [f"trainer.accelerator={device}", f"trainer.compile={compile}", "trainer.precision=64-true"]
        cfg = train_config(folder, *choices, *EACH_LOSS, *by_steps(4), "env.success_return=null", env=env)
        spec = EnvSpec(id=env)
        results.append(train(cfg, folder / "run", demonstrations(folder, spec, 8)))
    assert_close(*results, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.usefixtures("anywhere")
def test_rounds_are_trained_on_once_they_are_added(device: str, tmp_path: Path) -> None:
    curves = []
    for compile in ("auto", "false"):
        (folder := tmp_path / compile).mkdir()
        changes = [f"trainer.accelerator={device}", f"trainer.compile={compile}", *EACH_LOSS, "model.dropout=0"]
        fitted = fit(*toy(folder, *changes, "imitation=dagger", "imitation.rounds=3", "trainer.precision=32-true"))
        assert fitted.imitation["rounds"] == 3
        curves.append([row["train/loss"] for row in fitted.rows if "train/loss" in row])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


class KilledBefore(pl.Callback):
    """Raises an error before a step."""

    def __init__(self, *, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise RuntimeError("killed")


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize(("before", "after"), [("auto", "auto"), ("auto", "false"), ("false", "auto")])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.usefixtures("anywhere")
def test_a_killed_training_ends_like_an_uninterrupted_one(
    precision: str, before: str, after: str, device: str, tmp_path: Path
) -> None:
    rate = 0.03 if precision == "32-true" else 0.003  # with a high one, rounding to bfloat16 changes the weights
    changes = ["model.dropout=0.2", f"trainer.precision={precision}", f"optimizer.learning_rate={rate}", *by_steps(3)]
    killed = f"+callbacks.killed={{_target_: {__name__}.KilledBefore, step: 8}}"
    whole = trained(tmp_path / "whole", device, *changes)
    folder = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        trained(folder, device, *changes, f"trainer.compile={before}", killed)
    cfg = train_config(folder, f"trainer.accelerator={device}", *EACH_LOSS, *changes, f"trainer.compile={after}")
    resumed = train(cfg, folder / "run", demonstrations(folder))
    assert resumed[1].resumed
    same = device == "cpu" and before == after == "auto"
    assert_close(resumed, whole, atol=0 if same else 1e-4 if precision == "32-true" else 0.02)


ONE, SEVERAL = ActionSpace(n_choices=(3,), start=(0,)), ActionSpace(n_choices=(3, 2), start=(0, 0), shape=(2,))
BOX = ActionSpace(low=(-2.0, 0.0), high=(2.0, 1.0), shape=(2,))
HEADS: list[tuple[ActionHead, ActionSpace]] = [
    (Categorical(action_space=ONE), ONE),
    (Categorical(action_space=SEVERAL), SEVERAL),
    (Gaussian(action_space=BOX), BOX),
    (GaussianMixture(action_space=BOX, n_components=3), BOX),
    (Discretized(action_space=BOX, n_bins=5), BOX),
    (Regression(action_space=BOX), BOX),
]


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize(("head", "space"), HEADS, ids=lambda each: type(each).__name__)
def test_the_loss_of_fixed_shape_is_the_heads_loss_of_real_actions(
    head: ActionHead, space: ActionSpace, chunk: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    ahead = () if chunk == 1 else (chunk,)
    shape = (2, 3, *ahead, *(() if space.flat else (space.dim,)))
    targets = torch.rand(shape, generator=generator) * 2 - 1 if space.continuous else torch.ones(shape).long()
    batch, given = {"mask": mask, "actions": targets}, head
    if chunk > 1:
        given = ActionChunks(head, chunk=chunk)
        real = torch.tensor([[[True, True], [True, True], [True, False]], [[True, False], [False] * 2, [False] * 2]])
        batch = {"mask": mask, "actions": targets[:, :, 0], "targets": targets, "target_mask": real}
    outputs = torch.randn(2, 3, given.n_outputs, generator=generator, requires_grad=True)
    some = given.loss(outputs[mask], targets[mask], *([batch["target_mask"][mask]] if chunk > 1 else []))  # type: ignore[call-arg]
    fixed = mean_loss(given, outputs, batch)
    torch.testing.assert_close(fixed, some)
    for ours, expected in zip(torch.autograd.grad(fixed, outputs), torch.autograd.grad(some, outputs), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trainer.compile=false"], "trainer.compile=false"),
        (["trainer.accelerator=cpu"], "the device is not a GPU"),
        (["trainer.devices=2"], "several processes"),
        (["trainer.precision=16-mixed"], "16-mixed"),
        (["trainer.detect_anomaly=true"], "detect_anomaly"),
        (["model=gru", "model.n_layer=2", "model.dropout=0.1"], "dropout"),
        (["head._target_=my.head"], "head._target_=my.head might act differently at each step"),
        (["optimizer._target_=my.adam"], "optimizer._target_=my.adam"),
        ([], None),
        (["model=gru"], None),
    ],
    ids=str,
)
def test_what_a_graph_cannot_contain_is_named(overrides: list[str], reason: str | None, tmp_path: Path) -> None:
    cfg = train_config(tmp_path, "trainer.accelerator=gpu", *overrides)
    model = decoder()
    if "model=gru" in overrides:
        model = Recurrent(  # type: ignore[assignment]
            cell="gru",
            d_model=4,
            n_layer=cfg.model.n_layer,
            dropout=cfg.model.dropout,
            observation_dim=1,
            action_space=ONE,
            n_outputs=3,
            context_length=4,
        )
    found = obstacle(cfg, model, [])
    assert found is None if reason is None else reason in str(found)


def test_a_callback_that_acts_within_a_step_is_named(tmp_path: Path) -> None:
    cfg = train_config(tmp_path, "trainer.accelerator=gpu")
    assert obstacle(cfg, decoder(), [pl.Callback()]) is None
    assert obstacle(cfg, decoder(), [Interrupt(step=1, number=1)]) == "Interrupt acts within a step"


def test_only_long_training_in_a_graph_is_compiled_by_default(tmp_path: Path) -> None:
    short, long = (train_config(tmp_path, f"trainer.max_steps={n}") for n in (800, 2 * 10**9))
    model = decoder(d_model=64)
    assert not is_compiled(short, model, graphed=True)
    assert is_compiled(long, model, graphed=True)
    assert not is_compiled(long, model, graphed=False)
    assert not is_compiled(long, decoder(_Own, d_model=64), graphed=True)
    for choice in (True, False):
        assert is_compiled(train_config(tmp_path, f"trainer.compile={choice}"), model, graphed=False) == choice


class _Own(Decoder):
    pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compile", ["auto", "true"])
def test_a_gpu_learns_in_bfloat16_what_it_learns_in_float32(compile: str, tmp_path: Path) -> None:
    losses = []
    for changes in (["trainer.precision=bf16-mixed", f"trainer.compile={compile}"], ["trainer.compile=false"]):
        _, fitted = trained(tmp_path / str(len(losses)), "gpu", *changes, *by_steps(8), "optimizer.learning_rate=0.003")
        losses.append([row["train/loss"] for row in fitted.rows if "train/loss" in row])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # by the compiler itself
def test_a_compiled_model_learns_the_same_on_a_cpu(tmp_path: Path) -> None:
    one, other = (
        trained(tmp_path / choice, "cpu", f"trainer.compile={choice}", *by_steps(4)) for choice in ("true", "false")
    )
    assert_close(one, other, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_draws_dropout_anew_at_each_step_and_from_the_seed() -> None:
    def losses(seed: int) -> list[float]:
        weight = torch.nn.Parameter(torch.ones((), device="cuda"))
        optimizer = torch.optim.AdamW([weight], lr=0.0, fused=True)
        set_capturable(optimizer, weight.device)

        def loss_of(windows: Tensor) -> Tensor:
            return (torch.dropout(torch.ones(1000, device="cuda"), 0.5, train=True) * weight).sum() + windows.sum()

        step, found = GraphedStep(loss_of, [weight], optimizer, lambda parameters: None), []
        for n in range(WARM_UP + 4):
            seed_draws(hash((seed, n)), weight.device)
            found.append(float(step(torch.tensor([n], device="cuda"))))
        return found

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
    assert len({loss - n for n, loss in enumerate(losses(0))}) > WARM_UP + 1
