"""The gate that an expert must pass before it demonstrates."""

from ilt.schema import ConfigError
from ilt.tracking.store import Artifact


class GateError(ConfigError):
    """An expert is not good enough to learn from."""


def check_gate(expert: Artifact, *, gate: float | None, deterministic: bool) -> None:
    """Raise GateError unless the expert's mean return on selection seeds is at least `gate`.

    Args:
        expert: the artifact, whose manifest has the mean returns with deterministic and with sampled actions.
        gate: minimum mean return; None for no gate.
        deterministic: whether it will demonstrate deterministically.
    """
    measured = expert.metrics["selection"]["deterministic" if deterministic else "sampled"]["return_mean"]
    if gate is not None and measured < gate:
        manner = "acting deterministically" if deterministic else "sampling its actions"
        trained = expert.metrics.get("training") is not None
        raise GateError(
            f"expert.gate asks for a mean return of at least {gate} on selection seeds, but {expert.name}, "
            f"{manner}, reaches {measured:.1f}. "
            + ("Train it longer (expert.total_steps), with another expert.seed, or lower" if trained else "Lower")
            + f" expert.gate. The expert is kept in {expert.path}"
        )
