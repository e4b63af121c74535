"""Rules: which values a config key accepts, and how an error says so. Imports nothing heavy."""

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig


@dataclass(frozen=True)
class Rule:
    """The values that a key accepts.

    Attributes:
        allows: whether a value is allowed.
        wanted: the rest of the sentence "<key> must be …".
    """

    allows: Callable[[Any], bool]
    wanted: str

    def or_null(self) -> "Rule":
        """Return a rule that also allows null."""
        return Rule(lambda value: value is None or self.allows(value), f"{self.wanted}, or null")


def integer(least: float = -math.inf, most: float = math.inf) -> Rule:
    """Allow an integer in a range."""
    wanted = f"an integer of at least {least}" if most == math.inf else f"an integer from {least} to {most}"
    wanted = "an integer" if (least, most) == (-math.inf, math.inf) else wanted
    return Rule(lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most, wanted)


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Allow a finite number in a range; `above` and `below` exclude its ends."""
    bounds = []
    if least > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {least:g}")
    if most < math.inf:
        bounds.append(f"{'below' if below else 'at most'} {most:g}")

    def allows(v: Any) -> bool:
        if isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v):
            return False
        return (v > least if above else v >= least) and (v < most if below else v <= most)

    return Rule(allows, " ".join(["a number", " and ".join(bounds)]).strip())


def one_of(*values: Any) -> Rule:
    """Allow one of these values."""
    return Rule(lambda v: v in values and type(v) in {type(w) for w in values}, f"one of {list(values)}")


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """Allow a list of values that `rule` allows."""

    def allows(v: Any) -> bool:
        return isinstance(v, ListConfig | list) and (length is None or len(v) == length) and all(map(rule.allows, v))

    return Rule(allows, f"a list of {'' if length is None else f'{length} values, each '}{rule.wanted}")


BOOLEAN = Rule(lambda v: isinstance(v, bool), "true or false")
LARGEST_SEED = 2**32 - 1
"""Largest seed of NumPy's and Lightning's global generators."""

LARGEST_COUNT = 2**31 - 1
"""Largest number of steps or epochs."""

TEXT = Rule(lambda v: isinstance(v, str) and v != "", "text")
NAME = Rule(
    lambda v: isinstance(v, str) and v != "" and all(c.isalnum() or c in "_-" for c in v),
    "a name of letters, digits, _ and -",
)
FOLDER = Rule(
    lambda v: TEXT.allows(v) and v.isprintable() and not v.startswith(".") and "/" not in v and len(v.encode()) <= 200,
    "a folder name of at most 200 bytes that does not start with a dot and contains no /",
)
PROJECT = Rule(
    lambda v: TEXT.allows(v) and len(v) <= 128 and not set(v) & set("/\\#?%:"),
    "a name of at most 128 characters, none of them one of / \\ # ? % :",
)
MAPPING = Rule(lambda v: isinstance(v, DictConfig | Mapping), "a mapping")
FRACTION = number(0, 1)
PROBABILITY = number(0, 1, below=True)
COUNT = integer(1)


def rule_of(hint: Any, bounds: Mapping[str, Any]) -> Rule:
    """Return the rule that follows from an annotation and its bounds."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in arguments:
        others = [argument for argument in arguments if argument is not type(None)]
        return rule_of(others[0] if len(others) == 1 else typing.Union[tuple(others)], bounds).or_null()  # noqa: UP007
    if bounds["choices"] is not None:
        return one_of(*bounds["choices"])
    if typing.get_origin(hint) is list:
        return list_of(rule_of(arguments[0], {**bounds, "length": None}), bounds["length"])
    if hint is int:
        low, high = bounds["ge"], bounds["le"]
        return integer(-math.inf if low is None else low, math.inf if high is None else high)
    if hint is float:
        low = next((bounds[k] for k in ("gt", "ge") if bounds[k] is not None), -math.inf)
        high = next((bounds[k] for k in ("lt", "le") if bounds[k] is not None), math.inf)
        return number(low, high, above=bounds["gt"] is not None, below=bounds["lt"] is not None)
    if hint is bool:
        return BOOLEAN
    if hint is str:
        return TEXT
    assert typing.get_origin(hint) is dict or hint is dict, hint
    return MAPPING
