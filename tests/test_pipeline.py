"""The whole pipeline on toy environments, from an expert to results."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ilt import pipeline
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.chunks import ActionChunks
from ilt.models.heads import Gaussian
from ilt.models.spec import ModelSpec
from ilt.schema import ConfigError
from ilt.settings import check_config
from ilt.tracking.loggers import Run
from ilt.tracking.store import read_json
from ilt.training.fit import check_components
from tests.marks import slow
from tests.training.toy_training import context, run_folder, train_config

COUNTED = f"+callbacks.counted._target_={__name__}.Counted"
SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=2"]
STARTED: list[int] = []
"""The first global step of each training that was started."""


class Counted(pl.Callback):
    """Record each training that starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        STARTED.append(trainer.global_step)


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Run the pipeline without a command line; return the content of `results.json`."""
    check_config(cfg)
    with run_folder(cfg, folder) as opened:
        if not opened.finished:
            pipeline.check(context(cfg), cfg)
            pipeline.run(context(cfg), cfg, opened, Run())
        assert opened.finished
    return read_json(folder / "results.json")


def weights_of(results: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the scored weights."""
    return {name: digest for name, digest in results["files"].items() if name.startswith("weights/")}


def follow_config(folder: Path, head: str, *changes: str) -> DictConfig:
    """Return a training config with continuous actions."""
    expert = "expert._target_=tests.training.toy_training.follow_expert"
    env = "tests.training.toy_training:ilt-toys/Follow-v0"
    return train_config(folder, f"head={head}", expert, *changes, env=env)


@pytest.mark.parametrize("precision", ["bf16-mixed", *slow("64-true")])
@pytest.mark.parametrize("head", ["auto", "gaussian", *slow("gaussian_mixture", "discretized", "mse")])
def test_every_precision_trains_every_head(tmp_path: Path, precision: str, head: str) -> None:
    dtypes: set[torch.dtype] = set()

    def seen(module: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
        if module.training and isinstance(module, SequenceModel) and torch.is_grad_enabled():
            dtypes.add(outputs.dtype)

    changes = [*SHORT, f"trainer.precision={precision}"]
    cfg = train_config(tmp_path, *changes) if head == "auto" else follow_config(tmp_path, head, *changes)
    hook = nn.modules.module.register_module_forward_hook(seen)
    try:
        results = run(cfg, tmp_path / "run")
    finally:
        hook.remove()
    assert dtypes == {torch.float64 if precision == "64-true" else torch.bfloat16}
    assert 0 <= results["action_accuracy" if head == "auto" else "action_error"] < 2
    assert "nan" not in (tmp_path / "run" / "curve.csv").read_text()
    _, model, _ = ModelSpec.load(tmp_path / "run" / "weights" / "last.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("imitation", ["bc", "dagger", *slow("dart")])
@pytest.mark.parametrize("how", ["ensemble=0.1", *slow("execute=3")])
def test_chunks_train_and_score_with_every_algorithm(tmp_path: Path, imitation: str, how: str) -> None:
    changes = ["head.chunk=3", f"head.{how}", f"imitation={imitation}"]
    changes += ["imitation.rounds=1"] if imitation != "bc" else []
    changes += ["imitation.beta=0.5"] if imitation == "dagger" else []
    cfg = follow_config(tmp_path, "gaussian", *SHORT, *changes)
    results = run(cfg, tmp_path / "run")
    assert 0 <= results["action_error"] < 2
    _, model, head = ModelSpec.load(tmp_path / "run" / "weights" / "last.safetensors")
    assert isinstance(head, ActionChunks)
    assert model.n_outputs == 3 * head.step_head.n_outputs
    assert weights_of(run(cfg, tmp_path / "run")) == weights_of(results)


class WithoutChunks(WindowDataset):
    """A data set that knows nothing of chunks."""

    def __init__(
        self, episodes: Episodes, *, action_space: ActionSpace, context_length: int, as_deployed: bool = False
    ) -> None:
        super().__init__(episodes, action_space=action_space, context_length=context_length, as_deployed=as_deployed)


def test_a_data_set_without_chunks_is_refused_before_anything_runs(tmp_path: Path) -> None:
    own = {"_target_": f"{__name__}.WithoutChunks", "context_length": 2, "batch_size": 4, "episodes": 1.0}
    for chunk in (1, 2):
        cfg = train_config(tmp_path, f"head.chunk={chunk}")
        OmegaConf.update(cfg, "dataset", own, merge=False)
        check_config(cfg)
        if chunk == 1:
            check_components(context(cfg), cfg)
            continue
        with pytest.raises(
            ConfigError, match=r"head\.chunk must be 1, got 2: .*WithoutChunks has no parameter `chunk`"
        ):
            check_components(context(cfg), cfg)


def test_losses_are_computed_in_float32_in_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: set[torch.dtype] = set()
    loss = Gaussian.loss

    def noted(self: Gaussian, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        given.update((outputs.dtype, targets.dtype))
        computed = loss(self, outputs, targets)
        given.add(computed.dtype)
        return computed

    monkeypatch.setattr(Gaussian, "loss", noted)
    run(follow_config(tmp_path, "gaussian", *SHORT, "trainer.precision=bf16-mixed"), tmp_path / "run")
    assert given == {torch.float32}


def test_changes_that_do_not_affect_the_weights_do_not_retrain(tmp_path: Path) -> None:
    def again(*changes: str) -> dict[str, Any]:
        return run(train_config(tmp_path, COUNTED, *changes), tmp_path / "run")

    STARTED.clear()
    before = again()
    for change in ("n_envs=3", "trainer.log_every_n_steps=1", "callbacks.preemption=null", "logger=csv"):
        assert weights_of(again(change)) == weights_of(before)
    for key, value in {"n_episodes": 6, "reported_checkpoint": "best", "video": True}.items():
        after = again(f"evaluation.{key}={value}")
        assert after["evaluation"][key] == value != before["evaluation"][key]
        assert weights_of(after) == weights_of(before)
        if key == "n_episodes":
            assert (before["seeds"]["count"], after["seeds"]["count"]) == (4, 6)
            assert len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) == 1 + 6
    assert before["success_rate"] < again("env.success_return=3.0")["success_rate"]
    assert STARTED == [0]


def test_without_the_best_weights_only_the_last_are_scored(tmp_path: Path) -> None:
    results = run(train_config(tmp_path, *SHORT, "callbacks.best=null"), tmp_path / "run")
    assert [*results["checkpoints"]] == ["last"]
    assert [*weights_of(results)] == ["weights/last.safetensors"]
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    with pytest.raises(ConfigError, match="must be last where the run was trained"):
        run(train_config(tmp_path, *SHORT, "evaluation.reported_checkpoint=best"), tmp_path / "run")


# --- results come first ---


def test_an_env_without_rendering_is_trained_and_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = run(train_config(tmp_path, "evaluation.video=true"), tmp_path / "run")
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage().startswith("no figure (video): ")
    assert results["return_mean"] > 0
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    assert not (tmp_path / "run" / "episode.mp4").exists()


def test_results_are_written_before_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        assert (tmp_path / "run" / "results.json").is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_figures", killed)
        with pytest.raises(KeyboardInterrupt):
            run(train_config(tmp_path, COUNTED), tmp_path / "run")
    STARTED.clear()
    run(train_config(tmp_path, COUNTED), tmp_path / "run")  # the interrupted run
    assert STARTED == []


# --- refused before any expensive work ---


class Dumb(SequenceModel):
    """A model whose stepper has no methods."""

    def __init__(self, *, width: int = 2, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.out = nn.Linear(self.observation_dim, self.n_outputs)

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.out(observations)

    def make_stepper(self) -> Any:
        return object()


class Deaf(Dumb):
    """A model whose output lacks a dimension."""

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.out(observations)[:, -1]


def sgd(model: nn.Module, *, speed: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=speed)


class Shouting(pl.Callback):
    def __init__(self, *, loudly: bool = True) -> None:
        pass


def no_callback() -> None:
    pass


def early() -> pl.Callback:
    return pl.callbacks.EarlyStopping(monitor="val/loss")


def failing() -> None:
    raise RuntimeError("no")


OWN = "callbacks.own"


@pytest.mark.parametrize(
    ("group", "target", "values", "message"),
    [
        ("model", "Deaf", {"widht": 3}, r"model\.widht is not a key of .*Deaf; did you mean model\.width\?"),
        ("model", "Deaf", {}, r"model\._target_=.*Deaf cannot act: .*shape \(2, 4, 2\), got \(2, 2\)"),
        ("model", "Dumb", {}, r"model\._target_=.*Dumb cannot act: AttributeError: .* 'reset'"),
        ("model", "sgd", {}, r"model\.model must be given: .*sgd requires it"),
        ("imitation", "sgd", {}, r"imitation\.model must be given: .*sgd requires it"),
        ("demos", "sgd", {}, r"demos\._target_=.*sgd cannot be called with env, block and {}"),
        ("optimizer", "sgd", {"sped": 1}, r"optimizer\.sped is not a key of .*sgd; did you mean optimizer\.speed\?"),
        ("optimizer", "gone", {}, r"optimizer\._target_=.*gone does not exist"),
        (OWN, "Shouting", {"loudlier": 1}, r"callbacks\.own\.loudlier is .* callbacks\.own\.loudly\?"),
        (OWN, "Dumb", {}, r"callbacks\.own\._target_=.*Dumb cannot be made: .* missing .*'observation_dim'"),
        (OWN, "no_callback", {}, r"callbacks\.own\._target_ must be a Lightning callback, got .*"),
        ("trainer", "", {"max_stepz": 3}, r"trainer\.max_stepz is not a key; did you mean trainer\.max_steps\?"),
        (OWN, "early", {}, r"callbacks\.own ends the training early, but a run is finished at its last step"),
        (OWN, "failing", {}, r"callbacks\.own\._target_=.*failing cannot be made: no"),
        ("callbacks.curve", "Shouting", {}, r"callbacks\.curve\._target_ must be a LearningCurve, got .*Shouting"),
        ("dataset", "sgd", {}, r"dataset\.model must be given: .*sgd requires it"),
        ("expert", "no_callback", {}, r"expert\._target_=.*no_callback must take observations"),
        (
            "callbacks.ema",
            "",
            {"decya": 0.9},
            r"callbacks\.ema\.decya is not a key; did you mean callbacks\.ema\.decay\?",
        ),
    ],
)
def test_unsuitable_components_are_refused_in_one_line_before_any_work(
    tmp_path: Path, group: str, target: str, values: dict[str, Any], message: str
) -> None:
    cfg = train_config(tmp_path)
    named = {"_target_": f"{__name__}.{target}"} if target else OmegaConf.select(cfg, group)
    OmegaConf.update(cfg, group, {**named, **values}, merge=False, force_add=True)
    with pytest.raises(ConfigError, match=message) as error:
        run(cfg, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "experts").exists()


def test_checking_components_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    cfg, before = train_config(tmp_path), torch.get_rng_state()
    check_components(context(cfg), cfg)
    assert torch.equal(torch.get_rng_state(), before)
