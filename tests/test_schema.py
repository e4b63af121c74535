"""Validation rules, component schemas, imports by dotted path, and component identities."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import ilt
from ilt import registry, schema
from ilt.rules import BOOLEAN, COUNT, FRACTION, PROBABILITY, TEXT, integer, list_of, number, one_of
from ilt.schema import COMPONENTS, ConfigError, build, canonical, config_hash, locate, named
from ilt.training.config import NOT_OF_LIGHTNING

TARGETS = [c for c in COMPONENTS if c.target]


@pytest.mark.parametrize(
    ("rule", "allowed", "refused", "wanted"),
    [
        (integer(2), [2, 10**9], [1, 2.0, True, "2", None], "an integer of at least 2"),
        (integer(0, 1), [0, 1], [2, -1, False, True], "an integer from 0 to 1"),
        (number(), [0, -1.5, 3], [float("nan"), float("inf"), True, "1", None, [1]], "a number"),
        (number(0), [0, 0.0, 7], [-0.1], "a number at least 0"),
        (number(0, above=True), [0.1], [0, 0.0], "a number above 0"),
        (number(0, 1, above=True, below=True), [0.5], [0, 1], "a number above 0 and below 1"),
        (number(most=5), [5, -9], [5.1], "a number at most 5"),
        (FRACTION, [0, 1, 0.5], [1.01, -0.01, False], "a number at least 0 and at most 1"),
        (PROBABILITY, [0, 0.999], [1, 1.0], "a number at least 0 and below 1"),
        (COUNT, [1], [0, True, 1.0], "an integer of at least 1"),
        (COUNT.or_null(), [1, None], [0, ""], "an integer of at least 1, or null"),
        (one_of("a", "b"), ["a", "b"], ["c", "", None, 1], "one of ['a', 'b']"),
        (one_of(0, 1), [0, 1], [True, False, 1.0], "one of [0, 1]"),
        (list_of(COUNT), [[], [1, 2], OmegaConf.create([3])], [[0], 1, "12", None, (1,)], "a list of an integer"),
        (list_of(number(0, 1), 2), [[0, 1]], [[0], [0, 1, 1], [0, 2]], "a list of 2 values, each a number"),
        (BOOLEAN, [True, False], [0, 1, "true", None], "true or false"),
        (TEXT, ["a"], ["", None, 1], "text"),
    ],
    ids=lambda value: "",
)
def test_rules_allow_and_refuse_values(rule: Any, allowed: list[Any], refused: list[Any], wanted: str) -> None:
    assert [value for value in allowed if not rule.allows(value)] == []
    assert [value for value in refused if rule.allows(value)] == []
    assert rule.wanted.startswith(wanted)


# --- every schema ---


@pytest.mark.parametrize("found", COMPONENTS, ids=lambda c: f"{c.group}-{c.name}")
def test_every_key_is_documented_and_allows_its_default(found: schema.Component) -> None:
    for name, field in found.fields.items():
        assert field.metadata["doc"].endswith("."), name
        assert found.defaults[name] == "???" or found.rules[name].allows(found.defaults[name]), name


@pytest.mark.parametrize("found", TARGETS, ids=lambda c: c.target)
def test_every_key_of_a_component_is_an_argument_of_its_target(found: schema.Component) -> None:
    accepts = inspect.signature(locate(found.target, key="_target_")).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in accepts.values())
    ours = NOT_OF_LIGHTNING if found.group == "trainer" else set()
    assert anything or set(schema.own_keys(found.group, found.defaults)) - ours <= set(accepts)


@pytest.mark.parametrize("found", [c for c in COMPONENTS if not c.target], ids=lambda c: f"{c.group}-{c.name}")
def test_keys_of_components_without_a_target_are_used(found: schema.Component) -> None:
    root = Path(ilt.__file__).parent
    text = "\n".join(
        path.read_text() for path in root.rglob("*.py") if path.name not in ("config.py", "registry.py", "settings.py")
    )
    text += (root.parent / "conf" / "train.yaml").read_text()
    assert [k for k in found.fields if not re.search(rf"\.{k}\b|\"{k}\"", text)] == []


def test_only_these_components_accept_arbitrary_keys() -> None:
    names = {c.name.rpartition(".")[2] for c in COMPONENTS if c.open}
    assert names == {"RandomizedPhysics", "function"}


def test_every_parameter_of_the_trainer_is_a_key_or_refused_with_a_reason() -> None:
    found = next(c for c in COMPONENTS if c.group == "trainer")
    kept_by_lightning = {"enable_autolog_hparams", "inference_mode", "profiler"}
    parameters = set(inspect.signature(locate(found.target, key="_target_")).parameters)
    assert parameters == {*found.fields, *found.refused, *kept_by_lightning} - NOT_OF_LIGHTNING


def test_a_component_has_one_name_and_one_target() -> None:
    assert len({(c.group, c.name) for c in COMPONENTS}) == len(COMPONENTS)
    assert len({(c.group, c.target) for c in TARGETS}) == len(TARGETS)


# --- completing and checking ---


EXPERT_EPISODES = "ilt.data.sources.ExpertEpisodes"


def checked(group: str, values: Any, *, as_config: bool) -> Any:
    given = OmegaConf.create(values) if as_config else values
    if as_config:
        OmegaConf.set_struct(given, True)  # as Hydra does
    found = schema.schema_of(group, given)
    schema.complete(found, given)
    schema.check(found, given, prefix=group)
    return given


@pytest.mark.parametrize("as_config", [True, False])
def test_omitted_keys_take_their_defaults(as_config: bool) -> None:
    given = {"_target_": EXPERT_EPISODES, "n_episodes": 5}
    made = checked("demos", dict(given), as_config=as_config)
    filters = {"min_return": None, "drop_truncated": False, "top_fraction": None}
    assert made == {**given, "n_validation_episodes": 100, "filters": filters}
    made["filters"]["min_return"] = 3.0
    assert named("demos", "expert").defaults["filters"] == filters


def test_the_only_component_of_a_group_needs_no_target() -> None:
    assert checked("env", {"id": "CartPole-v1"}, as_config=True)._target_ == "ilt.envs.spec.EnvSpec"


IMPORTED = "model._target_ must be the dotted path of something that can be imported, got"
FILTERS = {"min_returns": 2}


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("model", 3, "model must be a mapping, got 3"),
        ("model", {}, f"{IMPORTED} None"),
        ("model", {"_target_": 3}, f"{IMPORTED} 3"),
        ("env", {}, "env.id must be given; it must be text"),
        ("expert", {"_target_": "ilt.experts.sb3_file.SB3File"}, "expert.path must be given; it must be text"),
        (
            "demos",
            {"_target_": EXPERT_EPISODES, "n_episodes": "???"},
            "demos.n_episodes must be given; it must be an int",
        ),
        ("env", {"id": "a", "kwarg": {}}, "env.kwarg is not a key; did you mean env.kwargs?"),
        ("head", {"_target_": "ilt.models.heads.Discretized", "bins": 3}, "did you mean head.n_bins?"),
        (
            "demos",
            {"_target_": "own.source", "filters": FILTERS},
            "demos.filters.min_returns is not a key; did you mean ",
        ),
        ("expert", {"_target_": "own.function", "gate": "high"}, "expert.gate must be a number, or null, got 'high'"),
        ("env.wrappers", {"_target_": "ilt.envs.wrappers.MaskObservation"}, "env.wrappers.hide must be given"),
    ],
)
@pytest.mark.parametrize("as_config", [True, False])
def test_errors_name_the_key(group: str, values: Any, message: str, as_config: bool) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        checked(group, values, as_config=as_config and isinstance(values, dict))


# --- external components ---


def from_elsewhere(observations: Any, *, width: int, depth: int = 2, sizes: tuple[int, ...] = (1, 2)) -> Any:
    """Return a number; a config can name this function as a component."""
    return width * depth


class Versioned:
    version = 7


OWN = f"{__name__}.from_elsewhere"


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("model", {"_target_": "nowhere.at.all"}, f"{IMPORTED} nowhere.at.all"),
        ("model", {"_target_": "nowhere"}, f"{IMPORTED} nowhere"),
        ("model", {"_target_": "ilt.models.decoder.Decodr"}, "model._target_=ilt.models.decoder.Decodr does not exist"),
        (
            "model",
            {"_target_": "broken.Model"},
            "model._target_=broken.Model cannot be imported: No module named 'not_",
        ),
        ("model", {"_target_": "clumsy.Model"}, "model._target_=clumsy.Model cannot be imported: cannot import name"),
        (
            "model",
            {"_target_": OWN, "dept": 1},
            f"model.dept is not a key of {OWN}; did you mean model.d",
        ),
        ("model", {"_target_": OWN}, f"model.width must be given: {OWN} requires it"),
        (
            "expert",
            {"_target_": OWN, "privilege": 1},
            f"expert.privilege is not a key of {OWN}; did you mean expert.privileged?",
        ),
    ],
)
def test_build_errors_name_the_key(
    group: str, values: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("import not_there\n")
    (tmp_path / "clumsy.py").write_text("from math import cosinus\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(group, values, known={"observations": 0})


def test_a_constructor_receives_only_the_known_values_it_accepts() -> None:
    assert build("model", {"_target_": OWN, "width": 3}, known={"observations": 0, "n_outputs": 4}) == 6


@pytest.mark.parametrize(
    "target",  # `build` would build anything that its arguments name
    ["os.system", "ilt.schema.build", "ilt.schema.importlib.import_module", "ilt.registry.files", OWN],
)
def test_only_registered_components_and_trusted_packages_are_imported(target: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"trust its package: trust=[{target.split('.')[0]}]")):
        locate(target, key="model._target_", trust=[])
    assert locate(target, key="model._target_", trust=[target.split(".")[0]]) is not None
    assert all(locate(found.target, key="_target_", trust=[]) is not None for found in TARGETS)


# --- identity ---


def with_another(monkeypatch: pytest.MonkeyPatch, found: schema.Component, **changes: Any) -> None:
    """Change a registered component for the rest of the test."""
    others = [c for c in schema.COMPONENTS if c is not found]
    monkeypatch.setattr(schema, "COMPONENTS", [*others, dataclasses.replace(found, **changes)])


def with_a_new_key(found: schema.Component) -> type:
    """Return a component's schema with one more key."""
    novelty = ("novelty", float, schema.key(0.5, "New."))
    return dataclasses.make_dataclass(f"New{found.schema.__name__}", [novelty], bases=(found.schema,), kw_only=True)


def test_a_new_key_with_a_default_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    found = named("model", "transformer")
    before = canonical("model", found.defaults)
    with_another(monkeypatch, found, schema=with_a_new_key(found))
    assert canonical("model", found.defaults) == before  # for a config written earlier
    now = named("model", "transformer").defaults
    assert now["novelty"] == 0.5
    assert canonical("model", now) == before
    assert canonical("model", {**now, "novelty": 0.6}) == {**before, "novelty": 0.6}


def test_a_new_filter_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    filtered = {**named("demos", "expert").defaults, "filters": {"min_return": 200.0, "drop_truncated": False}}
    before = canonical("demos", filtered)
    assert before["filters"] == {"min_return": 200.0}
    filters = schema.common_keys("demos.filters")
    assert filters is not None
    with_another(monkeypatch, filters, schema=with_a_new_key(filters))
    filtered["filters"]["novelty"] = 0.5
    assert canonical("demos", filtered) == before


def test_moving_code_keeps_the_identity_and_a_new_version_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values = named("model", "gru").defaults
    before = canonical("model", values)
    with_another(monkeypatch, named("model", "gru"), target="ilt.models.elsewhere.gru")
    assert canonical("model", {**values, "_target_": "ilt.models.elsewhere.gru"}) == before
    with_another(monkeypatch, named("model", "gru"), target=values["_target_"], version=2)
    assert canonical("model", values) == {**before, "version": 2}


def test_an_external_component_is_identified_by_target_version_and_values() -> None:
    source = config_hash(inspect.getsource(from_elsewhere))  # an edited function is a new version
    assert canonical("model", {"_target_": OWN, "width": 3}) == {"component": OWN, "version": source, "width": 3}
    versioned = f"{__name__}.Versioned"
    assert canonical("head", {"_target_": versioned}) == {"component": versioned, "version": 7}


def test_constructor_defaults_do_not_affect_identity() -> None:
    explicit: dict[str, Any] = {"_target_": OWN, "width": 3, "depth": 2, "sizes": [1, 2]}
    assert canonical("model", explicit) == canonical("model", {"_target_": OWN, "width": 3})
    assert canonical("model", {**explicit, "sizes": [1, 3]})["sizes"] == [1, 3]


def test_common_keys_of_an_external_component_have_their_defaults() -> None:
    values: dict[str, Any] = {"_target_": OWN, "width": 3}
    plain = canonical("expert", values)
    assert canonical("expert", {**values, "gate": 3.0, "train": False, "seed": 0, "privileged": False}) == plain
    assert canonical("expert", {**values, "seed": 1}) == {**plain, "seed": 1}


def test_the_hash_depends_on_everything_but_the_order_of_keys() -> None:
    assert config_hash({"a": 1, "b": {"c": [1, 2], "d": None}}) == config_hash({"b": {"d": None, "c": [1, 2]}, "a": 1})
    different: list[Any] = [{"a": [1, 2]}, {"a": [2, 1]}, {"a": [1, 2, 3]}, {"b": [1, 2]}, {"a": ["1", "2"]}, {}]
    assert len({config_hash(each) for each in different}) == len(different)


def test_the_hash_never_changes() -> None:
    # printf '{"a":1,"b":"\u00e9"}' | sha256sum, with é as the six characters \u00e9
    assert config_hash({"b": "é", "a": 1}) == "6071e7aa78"


def test_loaded_options_are_copies() -> None:
    registry.load_option("env", "gymnasium")["seed_blocks"]["test"] = None
    assert registry.load_option("env", "gymnasium")["seed_blocks"]["test"] == [30_000_000, 1_000_000]
