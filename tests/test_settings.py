"""Configs are checked once, by name, and are the same object for the same run."""

import dataclasses
import importlib
import json
import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import default, digits
from experiments.identity import differences
from experiments.settings import Config
from mrc_jax.errors import UsageError
from mrc_jax.recipe import Recipe

CONFIGS = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py")
    if path.stem != "__init__"
)

CIFAR10 = pathlib.Path(__file__).parents[1] / "experiments" / "results" / "cifar10"


def made(**fields: Any) -> Config:
    return Config.from_config_dict(ConfigDict({**default.get_config().to_dict(), **fields}))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_is_valid(name: str) -> None:
    config = Config.from_config_dict(importlib.import_module(f"configs.{name}").get_config())
    assert not config.report_test


@pytest.mark.parametrize("size", sorted(path.parent.name for path in CIFAR10.glob("*/report.json")))
def test_the_configs_of_cifar10_are_those_of_the_committed_files(size: str) -> None:
    """But for what says how a run is watched."""
    model, file_bytes = size.split("_")
    found = importlib.import_module(f"configs.cifar10_{model}").get_config(file_bytes)
    ours = json.loads((CIFAR10 / size / "report.json").read_text())["config"]
    ours = Config.with_defaults(ours)
    apart = differences(Config.from_config_dict(found).as_dict(), ours)
    assert set(apart) <= {"report_test", "checkpoint_every_s"}
    own = CIFAR10 / f"plain_{size}.json"  # where a size has a plain network of its own
    plain = json.loads((own if own.exists() else CIFAR10 / f"plain_{model}.json").read_text())
    assert plain["steps"] == found.plain_steps


def test_what_compares_validation_errors_refuses_a_config_without() -> None:
    made(data="mnist").check_held_out()
    with pytest.raises(UsageError, match="hold_out = False"):
        made(data="mnist", hold_out=False).check_held_out()


def test_the_default_config_names_every_field() -> None:
    assert set(default.get_config()) == {field.name for field in dataclasses.fields(Config)}


def test_defaults_agree_between_the_config_file_the_config_and_the_recipe() -> None:
    config = made()
    for field in dataclasses.fields(Config):
        if field.default is not dataclasses.MISSING and field.name != "hidden":
            assert getattr(config, field.name) == field.default, field.name
    for field in dataclasses.fields(Recipe):
        if field.name not in ("steps", "data_shards"):  # 0 shards are as many as devices
            assert getattr(config, field.name) == field.default, field.name


@pytest.mark.parametrize(
    ("field", "near"),
    [("bitz", "did you mean bits?"), ("lerning_rate", "did you mean learning_rate?")],
)
def test_an_unknown_field_is_refused_with_the_nearest_name(field: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown config field '{field}'") as caught:
        made(**{field: 1})
    assert near in str(caught.value)


def test_a_field_that_is_like_no_other_is_refused_too() -> None:
    with pytest.raises(UsageError, match=r"unknown config field 'zzzz'; configs/default\.py"):
        made(zzzz=1)


def test_a_missing_field_is_refused_by_name() -> None:
    config = digits.get_config()
    del config["file_bytes"]
    with pytest.raises(UsageError, match="no field 'file_bytes'"):
        Config.from_config_dict(config)


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": "14"},
        {"bits": 14.0},
        {"bits": True},
        {"name": 3},
        {"report_test": 1},
        {"learning_rate": True},
        {"learning_rate": "1e-3"},
        {"hidden": 128},
        {"hidden": (128, 6.5)},
        {"sharing": (("Dense_0/kernel",),)},
        {"sharing": (("Dense_0/kernel", "2"),)},
        {"uncoded": (1,)},
        {"seed": None},
    ],
)
def test_a_value_of_another_type_is_refused_by_name(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(UsageError, match=f"config field {name}: ") as caught:
        made(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "imagenet"},
        {"model": "vgg"},
        {"name": "two\nlines"},
        {"file_bytes": 0},
        {"plain_steps": 0},
        {"hidden": (128, 0)},
        {"seed": -1},
        {"seed": 1 << 31},
        {"sharing": (("Dense_0/kernel", 0),)},
        {"slack_nats": float("nan")},
        {"log_std_init": float("-inf")},
        {"plain_learning_rate": 0.0},
        {"plain_weight_decay": -0.1},
        {"plain_weight_decay": float("inf")},
        {"checkpoint_every_s": float("nan")},
        {"bits": 31},
        {"bits": -1},
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": float("inf")},
        {"beta_init": 0.0},
        {"selection": "best"},
        {"augment": "rotate"},
        {"plain_augment": "rotate"},
        {"plain_optimizer": "rmsprop"},
        {"plain_label_smoothing": 1.0},
        {"plain_batch_size": -1},
        {"refine_beta_step": -1e-3},
        {"refine_beta_step": float("nan")},
        {"width": 16},
        {"start_from": "out/larger", "parameterisation": "mean_kl"},
    ],
)
def test_an_impossible_value_is_refused_by_name(fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    with pytest.raises(UsageError, match=f"^{name}") as caught:
        made(**fields)
    assert "\n" not in str(caught.value)


def test_hidden_widths_are_refused_where_the_network_has_none() -> None:
    with pytest.raises(UsageError, match="only an mlp"):
        made(model="lenet5")


def test_whole_numbers_become_floats_and_lists_become_tuples() -> None:
    config = made(slack_nats=1, hidden=[8, 4], sharing=[["Dense_0/kernel", 2]])
    assert type(config.slack_nats) is float
    assert config.hidden == (8, 4)
    assert config.sharing == (("Dense_0/kernel", 2),)
    assert hash(config)


def test_the_recipe_takes_the_fields_of_its_names() -> None:
    recipe = made(bits=12, steps=7, slack_nats=0.5).recipe()
    assert (recipe.bits, recipe.steps, recipe.slack_nats) == (12, 7, 0.5)


def test_as_dict_is_json_and_the_hash_depends_on_every_setting_but_not_on_the_place() -> None:
    config = made()
    assert json.loads(json.dumps(config.as_dict())) == config.as_dict()
    assert made(data_dir="elsewhere").config_hash == config.config_hash
    assert made(beta_step=6e-4).config_hash != config.config_hash
    assert len(config.config_hash) == 64


def test_differences_are_the_names_of_the_fields_that_differ() -> None:
    a = made().as_dict()
    assert differences(a, a) == []
    assert differences(a, made(seed=1, bits=9).as_dict()) == ["bits", "seed"]
    assert differences(a, {**a, "new": None}) == ["new"]


def test_the_record_of_an_older_run_has_the_defaults_of_fields_added_since() -> None:
    today = made(sharing=(("w", 2),)).as_dict()
    older = {k: v for k, v in today.items() if k not in ("parameterisation", "uncoded", "distil")}
    assert Config.with_defaults(older) == today
    assert Config.with_defaults({**older, "seed": 3})["seed"] == 3
