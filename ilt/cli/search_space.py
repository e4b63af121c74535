"""Parse a search space in Hydra's sweep syntax into Optuna's distributions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ilt.schema import ConfigError


def parse_space(
    space: Mapping[str, str] | None, arguments: Sequence[str], parser: OverridesParser
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Return the distributions by override key, and the overrides that all runs share.

    Args:
        space: sweeps in Hydra's syntax by override key, such as `tag(log, interval(0.0001, 0.01))`.
        arguments: overrides from the command line. A sweep replaces the one in `space`; a value removes its key from
            the search.

    Raises:
        ConfigError: there is nothing to search over, a sweep is invalid, or `seed` is overridden.
    """
    found = {key: distribution(_parsed(key, text, parser)) for key, text in (space or {}).items()}
    if "seed" in found:
        raise ConfigError("search.space must not contain seed, which search.seeds and search.fresh_seeds set")
    fixed = []
    for argument, override in zip(arguments, parser.parse_overrides(list(arguments)), strict=True):
        key = override.get_key_element()
        if override.key_or_group == "seed":
            raise ConfigError(f"seed is set by search.seeds and search.fresh_seeds in a search, got {argument}")
        if override.is_sweep_override():
            found[key] = distribution(override)
        else:
            found.pop(key, None)
            fixed.append(argument)
    if not found:
        raise ConfigError("search.space must contain something to search over, or a sweep must be given")
    return found, fixed


def _parsed(key: str, text: Any, parser: OverridesParser) -> Override:
    try:
        return parser.parse_override(f"{key}={text}")
    except HydraException as error:
        raise ConfigError(f"search.space: {key}={text} is not an override: {error}") from error


def distribution(override: Override) -> BaseDistribution:
    """Convert a Hydra sweep to an Optuna distribution.

    `interval(a, b)` is continuous and `int(interval(a, b))` integer; `tag(log, …)` makes either logarithmic.
    `range(a, b, step)` excludes b, as in Hydra. `choice(…)` and `a,b,c` are categorical. Raise ConfigError if the
    override is not a sweep or not a valid one.
    """
    if not override.is_sweep_override():
        raise ConfigError(f"search.space must contain sweeps such as interval(0, 1), got {override.input_line}")
    try:
        return _distribution(override, override.value())
    except ValueError as error:
        raise ConfigError(f"search.space: {override.input_line} cannot be searched: {error}") from error


def _distribution(override: Override, sweep: Any) -> BaseDistribution:
    if isinstance(sweep, IntervalSweep):
        return _numbers([sweep.start, sweep.end])(sweep.start, sweep.end, log="log" in sweep.tags)
    values: list[Any] = list(override.sweep_iterator(Transformer.encode))
    if isinstance(sweep, RangeSweep):
        return _numbers(values)(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(values)


def _numbers(values: Sequence[Any]) -> Callable[..., BaseDistribution]:
    return IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
