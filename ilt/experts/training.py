"""What PPO and A2C share: scoring, keeping the best actor, checkpoints, and resuming an interrupted run."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, actor_policy
from ilt.experts.base import Report, Score
from ilt.schema import PlainError
from ilt.tracking.checkpoints import newest_whole, read_checkpoint, save_checkpoint
from ilt.tracking.store import write_text

log = logging.getLogger(__name__)


class TrainingLog:
    """Scores the actor periodically and keeps the best. Its state is in `folder`, so an interrupted run can resume.

    Attributes:
        history: one entry per scoring: environment `steps`, `seconds` of training so far (including scoring, excluding
            interruptions), and `return_mean` on selection seeds.
        resumed_at: environment steps at which an interrupted run was resumed.
    """

    def __init__(
        self, folder: Path, env: EnvSpec, *, score: Score, every: int, report: Report, privileged: bool
    ) -> None:
        self._folder, self._env, self._every, self._report = folder, env, every, report
        self._score, self._privileged = score, privileged
        self._started = time.monotonic()
        self._before = 0.0
        self.history: list[dict[str, float]] = []
        self.resumed_at: list[int] = []
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def best_path(self) -> Path:
        """Path of the best actor so far, according to the history, even if a scoring was interrupted."""
        return self._folder / f"{max(self.history, key=_return_mean)['steps']}.safetensors"

    def resume(self) -> dict[str, Any] | None:
        """Return the last saved state if training was interrupted, otherwise None."""
        advice = f"remove {self._folder} to start the training over"
        if (path := newest_whole(self._folder / "checkpoint.pt", advice=advice)) is None:
            return None
        checkpoint = read_checkpoint(path)
        self.history = checkpoint["history"]
        self.resumed_at = [*checkpoint["resumed_at"], checkpoint["steps"]]
        self._before = checkpoint["seconds"]
        log.info("resuming at %d steps, after %.0f s", checkpoint["steps"], checkpoint["seconds"])
        self._report(checkpoint["steps"], None)
        return checkpoint["state"]

    def after(self, steps: int, actor: Callable[[], Actor], state: Callable[[], Mapping[str, Any]]) -> None:
        """Report that `steps` environment steps are done. Score and save a checkpoint when due."""
        self._report(steps, None)
        if steps // self._every > (self.history[-1]["steps"] if self.history else 0) // self._every:
            self.score_now(steps, actor(), state)

    def score_now(self, steps: int, actor: Actor, state: Callable[[], Mapping[str, Any]]) -> None:
        """Score the actor, keep it if it is the best so far, and save a checkpoint.

        Raise PlainError if training has diverged.
        """
        if not all(parameter.isfinite().all() for parameter in actor.parameters()):
            raise PlainError(
                f"the training of the expert diverged: after {steps} steps its weights are not finite; a lower "
                "expert.learning_rate may help"
            )
        policy = actor_policy(actor, self._env.action_space, privileged=self._privileged, deterministic=True)
        return_mean = self._score(policy)
        seconds = self._before + time.monotonic() - self._started
        self.history.append({"steps": steps, "seconds": round(seconds, 2), "return_mean": return_mean})
        if self.history[-1] is max(self.history, key=_return_mean):
            actor.save(self.best_path)
        checkpoint = {
            "state": dict(state()),
            "steps": steps,
            "history": self.history,
            "resumed_at": self.resumed_at,
            "seconds": seconds,
        }
        save_checkpoint(checkpoint, self._folder / "checkpoint.pt")
        for path in self._folder.glob("*.safetensors"):
            if path != self.best_path:
                path.unlink()
        write_text(self._folder / "history.json", json.dumps(self.history, indent=1))
        self._report(steps, return_mean)

    def finish(self, steps: int, actor: Actor, state: Callable[[], Mapping[str, Any]], folder: Path) -> dict[str, Any]:
        """Score the last steps, copy the best actor to `folder`, and return the manifest's entry about training."""
        if not self.history or self.history[-1]["steps"] < steps:
            self.score_now(steps, actor, state)
        shutil.copy(self.best_path, folder / "actor.safetensors")
        shutil.copy(self._folder / "history.json", folder / "history.json")
        solved_at = self._env.success_return
        solved = [entry for entry in self.history if solved_at is not None and entry["return_mean"] >= solved_at]
        return {
            "steps": self.history[-1]["steps"],
            "seconds": self.history[-1]["seconds"],
            "best": max(self.history, key=_return_mean),
            "first_at_success_return": solved[0] if solved else None,
            "resumed_at_steps": self.resumed_at,
        }


def _return_mean(entry: Mapping[str, float]) -> float:
    return entry["return_mean"]
