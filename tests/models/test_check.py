"""Every model of `conf/` keeps the contract, and models that break it are caught."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.check import check_model
from ilt.models.config import SIZES
from ilt.models.recurrent import RecurrentStepper
from ilt.models.spec import ModelSpec
from ilt.models.steppers import stepper_of
from ilt.registry import load_option, options_of
from tests.marks import slow

FOUR = ActionSpace(n_choices=(4,), start=(0,))
MULTI = ActionSpace(n_choices=(3, 2), start=(0, 1), shape=(2,))
BOX = ActionSpace(low=(-2.0, 0.0), high=(2.0, 1.0), shape=(2,))
SPACES = {"choices": FOUR, "several choices": MULTI, "numbers": BOX}
BASELINES = ("mlp", "mlp_stack", "gru", "lstm")
TRANSFORMERS = [name for name in options_of("model") if name not in (*BASELINES, "linear")]
MODELS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in (*TRANSFORMERS, "linear")),
    *((name, {"size": size}) for name in BASELINES for size in SIZES),
    *((name, {"context_length": length}) for name in ("nano", *BASELINES) for length in (1, 2)),
    *(("tiny", {"positions": positions}) for positions in ("learned", "none")),
    ("tiny", {"attention": "full"}),
    ("tiny", {"tokens": "states"}),
    ("tiny", {"dropout": 0.5, "action_dropout": 0.5}),
    *((name, {"return_conditioned": True}) for name in ("tiny", "linear", *BASELINES)),
    *(("tiny", {"return_conditioned": True, "context_length": length}) for length in (1, 2)),
    *(("tiny", {"return_conditioned": True, "positions": positions}) for positions in ("learned", "none")),
    ("tiny", {"return_conditioned": True, "attention": "full"}),
    ("tiny", {"return_conditioned": True, "tokens": "states"}),
]


def spec(
    name: str,
    space: ActionSpace,
    *,
    observation_dim: int = 4,
    context_length: int = 6,
    return_conditioned: bool = False,
    **keys: Any,
) -> ModelSpec:
    return ModelSpec(
        model={**load_option("model", name), **keys},
        head=load_option("head", "auto"),
        observation_dim=observation_dim,
        action_space=space,
        context_length=context_length,
        return_conditioned=return_conditioned,
    )


def small(name: str, space: ActionSpace, **keys: Any) -> SequenceModel:
    torch.manual_seed(0)
    return spec(name, space, **{"d_model": 8, **keys}).build()[0]


def make_up(space: ActionSpace, n: int = 3, length: int = 6) -> tuple[Tensor, Tensor]:
    """Return observations (n, length, 4) and actions in model units."""
    rng = np.random.default_rng(0)
    actions = space.encode(space.sample(rng.random((n * length, space.dim))))
    observations = torch.from_numpy(rng.normal(size=(n, length, 4)).astype(np.float32))
    return observations, torch.from_numpy(actions.reshape(n, length, *actions.shape[1:]))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize(("name", "keys"), MODELS, ids=str)
def test_every_model_keeps_the_contract(name: str, keys: dict[str, Any], space: ActionSpace) -> None:
    check_model(spec(name, space, **keys).build()[0])


def test_the_check_leaves_the_model_unchanged() -> None:
    model = small("gru", FOUR, n_layer=2, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_model(model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


Given = dict[str, Tensor | None]
Spoil = Callable[["Toy", Tensor, Given], Tensor]


class ToyStepper:
    def __init__(self, model: "Toy") -> None:
        self.model, self.sums, self.started = model, torch.zeros(16, 4), torch.zeros(16, 1, dtype=torch.bool)

    def reset(self, slots: np.ndarray) -> None:
        self.sums[slots], self.started[slots] = 0.0, False

    @torch.no_grad()
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        past = self.model.embed(torch.from_numpy(previous)) * self.started[slots]
        self.sums[slots] += torch.from_numpy(observations) + past
        self.started[slots] = True
        return self.model.out(self.sums[slots] / 10).numpy()


class Toy(SequenceModel):
    """Sums the observations and actions so far; `spoil` or `stepper` can break it."""

    recurrent = True

    def __init__(self, spoil: Spoil = lambda toy, outputs, given: outputs, stepper: Any = ToyStepper) -> None:
        super().__init__(observation_dim=4, action_space=FOUR, n_outputs=4, context_length=6)
        self.embed, self.out, self.drop = nn.Embedding(4, 4), nn.Linear(4, 4), nn.Dropout(0.5)
        self.spoil, self.stepper = spoil, stepper

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        past = torch.cat([torch.zeros_like(observations[:, :1]), self.embed(actions[:, :-1])], dim=1)
        outputs = self.out((observations + past).cumsum(dim=1) / 10)
        return self.spoil(self, outputs, {"seen": observations, "done": actions, "mask": mask})

    def make_stepper(self) -> ToyStepper:
        return self.stepper(self)


def times_real_steps(toy: Toy, outputs: Tensor, given: Given) -> Tensor:
    return outputs * (outputs.shape[1] if given["mask"] is None else given["mask"].sum(dim=1)[:, None, None])


class IgnoresReset(ToyStepper):
    def reset(self, slots: np.ndarray) -> None:
        self.started[slots] = False


class UsesTheActionBeforeTheStart(ToyStepper):
    def reset(self, slots: np.ndarray) -> None:
        self.sums[slots], self.started[slots] = 0.0, True


class MixesUpSlots(ToyStepper):
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return super().step(np.arange(len(slots)), observations, previous)


class StaysInEvaluation(ToyStepper):
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        self.model.eval()
        return super().step(slots, observations, previous)


class StepsOneDimension(ToyStepper):
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return super().step(slots, observations, previous)[0]


class ForgetsAParameter(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(4, 4)


class DependsOnTheLengthOfItsWindow(Toy):
    recurrent = False

    def __init__(self) -> None:
        super().__init__(lambda toy, outputs, given: outputs * outputs.shape[1], stepper=lambda model: None)


class SeesBeyondItsWindow(Toy):
    """A model that claims that long windows show it no more than K steps."""

    slides = True


def test_a_correct_toy_passes() -> None:
    check_model(Toy())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Toy(lambda toy, y, x: y + x["seen"].mean(dim=1, keepdim=True)), "observation must not change earlier outputs"),
        (Toy(lambda toy, y, x: y + toy.embed(x["done"])), "an action must change no output before the next step"),
        (Toy(times_real_steps), "padding must not change outputs"),
        (Toy(lambda toy, y, x: y[:, -1]), r"shape \(B, L, n_outputs\) = \(15, 15, 4\), got torch.float32 of \(15, 4\)"),
        (Toy(lambda toy, y, x: y.log()), "finite numbers"),
        (ForgetsAParameter(), r"forgotten\.weight gets no gradient"),
        (Toy(stepper=IgnoresReset), "stepping must equal the full pass, but is off by .* at step 0"),
        (Toy(stepper=UsesTheActionBeforeTheStart), "stepping must equal the full pass, .* at step 0"),
        (Toy(stepper=MixesUpSlots), "stepping must equal the full pass"),
        (Toy(stepper=StaysInEvaluation), "training mode was turned off"),
        (Toy(stepper=StepsOneDimension), r"must return shape \(n, n_outputs\) = \(2, 4\), got \(4,\)"),
        (DependsOnTheLengthOfItsWindow(), "stepping must equal the full pass"),
        (SeesBeyondItsWindow(), "slides: outputs of long windows must depend on the last K steps only"),
    ],
)
def test_broken_models_are_caught(broken: Toy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model(broken)


def test_other_modules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a subclass of ilt\.SequenceModel, got Linear"):
        check_model(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("observation_dim", [4, 24])
@pytest.mark.parametrize("size", [*SIZES[:3], *slow(*SIZES[3:])])
def test_baselines_have_as_many_parameters_as_the_transformer(
    size: str, observation_dim: int, space: ActionSpace
) -> None:
    with torch.device("meta"):
        wanted = count(spec(size, space, observation_dim=observation_dim).build()[0])
        for name in BASELINES:
            model = spec(name, space, observation_dim=observation_dim, size=size).build()[0]
            assert count(model) == pytest.approx(wanted, rel=0.05), name


def test_finding_a_size_does_not_draw_random_numbers() -> None:
    first = small("gru", FOUR, d_model=None).state_dict()
    width = first["norm.weight"].shape[0]
    assert all(torch.equal(first[k], v) for k, v in small("gru", FOUR, d_model=width).state_dict().items())


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_recurrent_model_remembers_its_whole_past(name: str) -> None:
    model, (observations, actions) = small(name, FOUR).eval(), make_up(FOUR, n=2, length=20)
    observations[1] = observations[0]
    actions[1] = actions[0]
    observations[1, 0] += 3.0  # 20 steps before the end; K = 6
    slots, stepper = np.arange(2), stepper_of(model, context_length=model.context_length)
    assert isinstance(stepper, RecurrentStepper)
    stepper.reset(slots)
    for t in range(20):
        outputs = stepper.step(slots, observations[:, t].numpy(), actions[:, t - 1].numpy())
    assert not np.array_equal(outputs[0], outputs[1])


def test_an_mlp_sees_only_the_present_and_a_stack_also_recent_steps() -> None:
    (observations, actions), past = make_up(FOUR), make_up(FOUR)[0]
    past[:, 0] += 3.0
    for name, sees in {"mlp": False, "mlp_stack": True}.items():
        model = small(name, FOUR).eval()
        assert torch.equal(model(past, actions)[:, -1], model(observations, actions)[:, -1]) != sees
