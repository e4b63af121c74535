"""Policies that were trained before and are named by where they are: a run's student, an expert, the random policy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilt.cli.expert import RANDOM, load_policy
from ilt.config import ConfigError
from ilt.models.decoder import Decoder
from ilt.rollout.sequence_policy import SequencePolicy
from ilt.tracking.run_folder import RESULTS, read_finished
from ilt.tracking.store import MANIFEST, SHIPPED, Artifact, Store, open_artifact, sha256
from ilt.tracking.weights import load_weights

if TYPE_CHECKING:
    from ilt.envs.spec import EnvSpec
    from ilt.rollout.policies import Policy


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """A policy that can fly in an environment.

    Attributes:
        policy: what flies.
        name: of the folder that it comes from, without a hash.
        identity: what decides its actions, beside `deterministic`.
        deterministic: whether it takes its most likely action, or a sample.
        parents: the artifacts that it comes from.
    """

    policy: "Policy"
    name: str
    identity: Any
    deterministic: bool
    parents: tuple[Artifact, ...] = ()


def read_policy(key: str, where: str, spec: "EnvSpec", store: Store, *, deterministic: bool) -> TrainedPolicy:
    """The policy that a config key names, to fly in `spec`, where it need not have been trained.

    It may be somebody else's: its files are checked, and nothing that it names is called.

    Args:
        key: the config key, for errors.
        where: the folder of a finished run or of an expert, a name in `outputs/runs` or `outputs/experts`, the name of
            an expert that comes with the package, or `random`.

    Raises:
        ConfigError: there is none, or it does not see what the environment shows it.
        DamagedArtifactError: a file is missing or is not the one that was published.
    """
    if where == RANDOM:
        policy = load_policy(RANDOM, spec, store.root, deterministic=False)
        return TrainedPolicy(policy=policy, name=RANDOM, identity=RANDOM, deterministic=False)
    for folder in (
        Path(where),
        store.root / "runs" / where,
        store.root / "experts" / where,
        SHIPPED["experts"] / where,
    ):
        if (folder / RESULTS).is_file():
            return _student(key, folder, spec, deterministic=deterministic)
        if (folder / MANIFEST).is_file():
            return _expert(key, open_artifact(folder), spec, deterministic=deterministic)
    raise ConfigError(
        f"{key} must be the folder of a finished run (with a {RESULTS}) or of an expert (with a {MANIFEST}), a name in "
        f"{store.root / 'runs'} or {store.root / 'experts'}, or {RANDOM}, got {where}"
    )


def _student(key: str, folder: Path, spec: "EnvSpec", *, deterministic: bool) -> TrainedPolicy:
    """A run's reported weights, with the context that they were scored with."""
    run, _ = read_finished(folder, key=key)
    weights = f"weights/{run.evaluation.reported_checkpoint}.safetensors"
    model = Decoder.load(folder / weights)
    _check_fit(key, run.env, spec, (model.config["observation_dim"], model.config["n_actions"]), privileged=False)
    context_length = run.evaluation.context_length or model.context_length
    return TrainedPolicy(
        policy=SequencePolicy(model, context_length=context_length, deterministic=deterministic),
        name=folder.name,
        identity={"weights": sha256(folder / weights), "context_length": context_length},
        deterministic=deterministic,
    )


def _expert(key: str, expert: Artifact, spec: "EnvSpec", *, deterministic: bool) -> TrainedPolicy:
    """An expert, trained in whatever environment of the same id."""
    config = expert.manifest["config"]
    kind, observes = config.get("policy"), config.get("observes", "student")
    if kind not in ("actor", "heuristic", RANDOM):
        raise ConfigError(f"{key} must be an expert, but {expert.path} is none")
    sizes = None
    if kind == "actor":
        built, _ = load_weights(expert.file("actor.safetensors"))
        sizes = built["observation_dim"], built["n_actions"]
    _check_fit(key, config["env"], spec, sizes, privileged=observes == "privileged")
    deterministic = deterministic and kind != RANDOM
    return TrainedPolicy(
        policy=load_policy(kind, spec, expert.path, deterministic=deterministic, observes=observes),
        name=expert.manifest["name"].rpartition("-")[0],
        identity=expert.manifest["name"],  # not its folder's, which may be another one by now
        deterministic=deterministic,
        parents=(expert,),
    )


def _check_fit(
    key: str,
    env: Mapping[str, Any],
    spec: "EnvSpec",
    sizes: tuple[int, int] | None,
    *,
    privileged: bool,
) -> None:
    """Raise ConfigError unless a policy that was trained in `env` is shown by `spec` what it was shown there.

    Args:
        env: its `id` and `wrappers`.
        sizes: of the observations that it takes and of its action set; None if it has none of its own.
    """
    if env["id"] != spec.id:
        raise ConfigError(f"{key} was trained in {env['id']} and cannot fly in env.id={spec.id}")
    shown = spec.sizes(privileged=privileged)
    if sizes is not None and sizes != shown:
        raise ConfigError(
            f"{key} takes observations of {sizes[0]} numbers and has {sizes[1]} actions, but env shows it {shown[0]} "
            f"numbers and has {shown[1]} actions"
        )
    trained_in = replace(spec, wrappers=env.get("wrappers", {}))
    learned, flown = (one.shows(privileged=privileged) for one in (trained_in, spec))
    if learned != flown:
        raise ConfigError(f"{key} was trained to see {', '.join(learned)}, but env shows it {', '.join(flown)}")
