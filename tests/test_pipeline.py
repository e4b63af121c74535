"""The whole story on toy environments, from an expert to results."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ilt import pipeline
from ilt.models.base import SequenceModel
from ilt.models.heads import Gaussian
from ilt.models.spec import ModelSpec
from ilt.schema import ConfigError
from ilt.settings import check_config
from ilt.tracking.loggers import Run
from ilt.tracking.store import read_json
from ilt.training.fit import check_components
from tests.training.toy_training import context, run_folder, train_config

FOLLOW = "tests.training.toy_training:ilt-toys/Follow-v0"
EXPERT = "expert._target_=tests.training.toy_training.follow_expert"
STARTED: list[int] = []
"""A step for each training that was begun."""


class Counted(pl.Callback):
    """Counts trainings."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        STARTED.append(trainer.global_step)


COUNTED = [f"+callbacks.counted._target_={__name__}.Counted"]


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """The main command, without a command line: what `results.json` holds."""
    check_config(cfg)
    with run_folder(cfg, folder) as opened:
        if not opened.finished:
            pipeline.run(context(cfg), cfg, opened, Run())
        assert opened.finished
    return read_json(folder / "results.json")


# --- every precision ---


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64-true"])
@pytest.mark.parametrize("task", ["choices", "gaussian", "gaussian_mixture", "discretized", "mse"])
@pytest.mark.filterwarnings("ignore:.*fp16 is not supported on CPU.*")
def test_every_precision_trains_every_head(tmp_path: Path, precision: str, task: str) -> None:
    dtypes: set[torch.dtype] = set()

    def seen(module: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
        if module.training and isinstance(module, SequenceModel) and torch.is_grad_enabled():
            dtypes.add(outputs.dtype)

    changes = ["trainer.max_steps=4", "trainer.val_check_interval=2", f"trainer.precision={precision}"]
    if task == "choices":
        cfg = train_config(tmp_path, *changes)
    else:
        cfg = train_config(tmp_path, *changes, f"head={task}", EXPERT, env=FOLLOW)
    hook = nn.modules.module.register_module_forward_hook(seen)
    try:
        results = run(cfg, tmp_path / "run")
    finally:
        hook.remove()
    assert dtypes == {torch.float64 if precision == "64-true" else torch.bfloat16}
    name = "action_accuracy" if task == "choices" else "action_error"
    assert 0 <= results[name] < 2
    curve = (tmp_path / "run" / "curve.csv").read_text()
    assert "nan" not in curve
    _, model, _ = ModelSpec.load(tmp_path / "run" / "weights" / "last.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_losses_are_computed_in_float32_in_mixed_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: set[torch.dtype] = set()
    loss = Gaussian.loss

    def noted(self: Gaussian, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        given.update((outputs.dtype, targets.dtype))
        computed = loss(self, outputs, targets)
        given.add(computed.dtype)
        return computed

    monkeypatch.setattr(Gaussian, "loss", noted)
    changes = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.precision=bf16-mixed", EXPERT]
    changes += ["head=gaussian"]
    run(train_config(tmp_path, *changes, env=FOLLOW), tmp_path / "run")
    assert given == {torch.float32}


# --- what names a training ---

LATER = {
    "evaluation.n_episodes": 6,
    "evaluation.reported_checkpoint": "best",
    "evaluation.video": "true",
    "env.success_return": 3.0,
    "n_envs": 3,
    "trainer.log_every_n_steps": 1,
    "callbacks.preemption": "null",
    "logger": "csv",
}


@pytest.mark.parametrize(("key", "value"), LATER.items())
def test_what_decides_no_weights_trains_nothing_again(tmp_path: Path, key: str, value: Any) -> None:
    first, second = train_config(tmp_path, *COUNTED), train_config(tmp_path, *COUNTED, f"{key}={value}")
    STARTED.clear()
    before = run(first, tmp_path / "run")
    after = run(second, tmp_path / "run")
    assert STARTED == [0]
    assert after["files"] == before["files"]
    section, _, name = key.partition(".")
    if section == "evaluation":
        assert after["evaluation"][name] == second.evaluation[name] != before["evaluation"][name]
    if name == "n_episodes":
        assert (before["seeds"]["count"], after["seeds"]["count"]) == (4, 6)
        assert len((tmp_path / "run" / "episodes.csv").read_text().splitlines()) == 1 + 6
    if key == "env.success_return":
        assert before["success_rate"] < after["success_rate"]


@pytest.mark.parametrize(
    "change", ["seed=1", "callbacks.rollout.n_episodes=4", "trainer.max_steps=25", "optimizer.learning_rate=0.1"]
)
def test_what_decides_the_weights_is_another_training(tmp_path: Path, change: str) -> None:
    run(train_config(tmp_path), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run with another config"):
        run(train_config(tmp_path, change), tmp_path / "run")


# --- results come first ---


def test_an_env_that_cannot_be_drawn_is_trained_and_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    results = run(train_config(tmp_path, "evaluation.video=true"), tmp_path / "run")
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage().startswith("no figure (video): ")
    assert results["return_mean"] > 0
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    assert not (tmp_path / "run" / "episode.mp4").exists()


def test_results_are_there_before_figures_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        assert (tmp_path / "run" / "results.json").is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "make_figures", killed)
        with pytest.raises(KeyboardInterrupt):
            run(train_config(tmp_path, *COUNTED), tmp_path / "run")
    STARTED.clear()
    run(train_config(tmp_path, *COUNTED), tmp_path / "run")  # which was not finished
    assert STARTED == []


# --- refused before any long work ---


class Deaf(SequenceModel):
    """A model that forgets a dimension."""

    def __init__(self, *, width: int = 2, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.out = nn.Linear(self.observation_dim, self.n_outputs)

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.out(observations)[:, -1]


class Dumb(Deaf):
    """A model whose stepper cannot step."""

    def forward(self, observations: torch.Tensor, actions: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return self.out(observations)

    def make_stepper(self) -> Any:
        return object()


def sgd(model: nn.Module, *, speed: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=speed)


class Shouting(pl.Callback):
    def __init__(self, *, loudly: bool = True) -> None:
        pass


def no_callback() -> None:
    pass


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (
            "model",
            {"_target_": "Deaf", "widht": 3},
            r"model\.widht is not a key of .*Deaf; did you mean model\.width\?",
        ),
        ("model", {"_target_": "Deaf"}, r"model\._target_=.*Deaf cannot act: .*shape \(2, 4, 2\), got \(2, 2\)"),
        ("model", {"_target_": "Dumb"}, r"model\._target_=.*Dumb cannot act: AttributeError: .* 'reset'"),
        ("model", {"_target_": "sgd"}, r"model\.model must be given: .*sgd asks for it"),
        (
            "optimizer",
            {"_target_": "sgd", "sped": 1},
            r"optimizer\.sped is not a key of .*; did you mean optimizer\.speed\?",
        ),
        ("optimizer", {"_target_": "gone"}, r"optimizer\._target_=.*gone names nothing"),
        (
            "callbacks.own",
            {"_target_": "Shouting", "loudlier": 1},
            r"callbacks\.own\.loudlier is .* callbacks\.own\.loudly\?",
        ),
        (
            "callbacks.own",
            {"_target_": "Dumb"},
            r"callbacks\.own\._target_=.*Dumb cannot be made: .* missing .*'observation_dim'",
        ),
        (
            "callbacks.own",
            {"_target_": "no_callback"},
            r"callbacks\.own\._target_ must be a Lightning callback, got .*",
        ),
        ("trainer.max_time_", 3, r"trainer\.max_time_ is not a key of .*Trainer; did you mean trainer\.max_time\?"),
        ("callbacks.ema.decya", 0.9, r"callbacks\.ema\.decya is not a key; did you mean callbacks\.ema\.decay\?"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_any_work(
    tmp_path: Path, group: str, values: Any, message: str
) -> None:
    if isinstance(values, dict):
        values = {**values, "_target_": f"{__name__}.{values['_target_']}"}
    cfg = train_config(tmp_path)
    OmegaConf.update(cfg, group, values, merge=False, force_add=True)
    with pytest.raises(ConfigError, match=message) as error:
        run(cfg, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "experts").exists()


def test_checking_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    cfg, before = train_config(tmp_path), torch.get_rng_state()
    check_components(context(cfg), cfg)
    assert torch.equal(torch.get_rng_state(), before)
