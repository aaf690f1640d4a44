"""Overrides typed by the recipe's dataclasses, the resolved recipe, and the first difference of two."""

import json
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainofstep.records import from_row
from chainofstep.settings import apply_overrides, difference, resolved


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-4
    warmup: float | None = None


@dataclass(frozen=True)
class Preference:
    beta: float = 0.1
    rounds: int = 3
    restart: bool = True
    rule: Literal["threshold", "extremes"] = "threshold"
    optimizer: Optimizer = Optimizer()


@dataclass(frozen=True)
class Recipe:
    name: str = "mini"
    seed: int = 0
    samples: tuple[int, ...] = (1, 4, 16)
    span: tuple[float, float] = (0.2, 0.8)
    limit: int | None = None
    dpo: Preference = Preference()
    extra: dict[str, int] = field(default_factory=dict)


def test_every_type_is_read_and_nothing_else_changes():
    assert apply_overrides(Recipe(), ["seed=7"]) == Recipe(seed=7)
    assert apply_overrides(Recipe(), ["name = large one"]) == Recipe(name="large one")
    assert apply_overrides(Recipe(), ["name=a=b"]) == Recipe(name="a=b")
    assert apply_overrides(Recipe(), ["dpo.beta=0.2"]) == Recipe(dpo=Preference(beta=0.2))
    assert apply_overrides(Recipe(), ["dpo.restart=False"]) == Recipe(dpo=Preference(restart=False))
    assert apply_overrides(Recipe(), ["dpo.rule=extremes"]) == Recipe(dpo=Preference(rule="extremes"))
    assert apply_overrides(Recipe(), ["dpo.optimizer.warmup=5e-1"]).dpo.optimizer == Optimizer(warmup=0.5)
    assert apply_overrides(Recipe(limit=3), ["limit=none"]) == Recipe()
    assert apply_overrides(Recipe(), ["span=0,1"]) == Recipe(span=(0.0, 1.0))
    for written in ("2,8", "(2, 8)", "[2,8]", "2,8,"):
        assert apply_overrides(Recipe(), [f"samples={written}"]) == Recipe(samples=(2, 8))
    assert apply_overrides(Recipe(), ["samples="]) == Recipe(samples=())


def test_an_integer_for_a_float_becomes_a_float():
    assert isinstance(apply_overrides(Recipe(), ["dpo.beta=1"]).dpo.beta, float)


def test_overrides_apply_in_order_and_leave_the_recipe_given_alone():
    recipe = Recipe()
    changed = apply_overrides(recipe, ["seed=1", "dpo.rounds=5", "seed=2"])
    assert (changed.seed, changed.dpo.rounds) == (2, 5)
    assert recipe == Recipe()
    with pytest.raises(FrozenInstanceError):
        changed.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("dpo.betta=0.2", "dpo.beta"),
        ("beta=0.2", "dpo.beta"),
        ("dpo.learning_rate=1", "dpo.optimizer.learning_rate"),
        ("warm=1", "dpo.optimizer.warmup"),
        ("sed=1", "seed"),
        ("seed.x=1", "seed"),
        ("dop.rounds=1", "dpo.rounds"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, nearest):
    key = override.partition("=")[0]
    with pytest.raises(ValueError) as caught:
        apply_overrides(Recipe(), [override])
    assert str(caught.value) == f"--set {key}: no such field, the nearest is {nearest}"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("seed=1.5", "'1.5' is not a whole number"),
        ("seed=many", "'many' is not a whole number"),
        ("dpo.beta=low", "'low' is not a number"),
        ("dpo.beta=nan", "'nan' is not a finite number"),
        ("dpo.restart=1", "'1' is not true or false"),
        ("dpo.rule=first", "'first' is not one of threshold, extremes"),
        ("limit=all", "'all' is not a whole number or none"),
        ("samples=1,x", "'1,x' is not a list with commas between of which each is a whole number"),
        ("span=1", "'1' is not a list of 2 values with commas between"),
        ("extra=1", "'1' is not settable here: its type is dict[str, int], change it in the recipe"),
    ],
)
def test_a_wrong_type_names_the_value_and_the_type(override, wanted):
    with pytest.raises(ValueError) as caught:
        apply_overrides(Recipe(), [override])
    assert str(caught.value) == f"--set {override}: {wanted}"


def test_a_group_and_a_missing_sign_say_what_to_write():
    with pytest.raises(ValueError, match=r"it is a group, set one of its fields: dpo\.optimizer\.learning_rate, "):
        apply_overrides(Recipe(), ["dpo.optimizer=3"])
    with pytest.raises(ValueError, match="--set 'seed' has no '='"):
        apply_overrides(Recipe(), ["seed"])


def test_a_recipes_own_check_is_heard():
    @dataclass(frozen=True)
    class Checked:
        count: int = 1

        def __post_init__(self):
            if self.count < 1:
                raise ValueError(f"count is {self.count}: at least 1")

    with pytest.raises(ValueError, match=r"^count is 0: at least 1$"):
        apply_overrides(Checked(), ["count=0"])


def test_resolved_is_plain_json_with_every_default():
    values = resolved(Recipe())
    assert values == {
        "name": "mini",
        "seed": 0,
        "samples": [1, 4, 16],
        "span": [0.2, 0.8],
        "limit": None,
        "dpo": {
            "beta": 0.1,
            "rounds": 3,
            "restart": True,
            "rule": "threshold",
            "optimizer": {"learning_rate": 1e-4, "warmup": None},
        },
        "extra": {},
    }
    assert json.loads(json.dumps(values)) == values


@given(
    seed=st.integers(),
    beta=st.floats(allow_nan=False, allow_infinity=False),
    restart=st.booleans(),
    limit=st.none() | st.integers(),
    samples=st.lists(st.integers()).map(tuple),
    rule=st.sampled_from(["threshold", "extremes"]),
)
def test_what_is_written_as_an_override_is_what_is_set(seed, beta, restart, limit, samples, rule):
    wanted = Recipe(
        seed=seed, limit=limit, samples=samples, dpo=replace(Preference(), beta=beta, restart=restart, rule=rule)
    )
    changed = apply_overrides(
        Recipe(),
        [
            f"seed={seed}",
            f"limit={limit}",
            f"samples={samples}",
            f"dpo.beta={beta}",
            f"dpo.restart={restart}",
            f"dpo.rule={rule}",
        ],
    )
    assert changed == wanted
    assert from_row(Recipe, resolved(changed)) == wanted


def test_difference_names_the_first_field_in_order():
    base = resolved(Recipe())
    assert difference(base, base) is None
    assert difference(base, resolved(apply_overrides(Recipe(), ["dpo.rounds=1"]))) == "dpo.rounds"
    assert difference(base, resolved(apply_overrides(Recipe(), ["dpo.rounds=1", "seed=1"]))) == "seed"
    assert difference(base, resolved(apply_overrides(Recipe(), ["samples=1,4"]))) == "samples"
    assert difference({"a": 1}, {"a": 1, "b": {"c": 2}}) == "b"
    assert difference({"a": {"x": 1}}, {"a": 1}) == "a"
    assert difference({"a": None}, {}) == "a"
