import copy
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_config import configs
from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec, describe_work, load_spec, parse_change, resolve
from tune_gan.settings import parse_yaml

SPEC: dict[str, Any] = {
    "name": "test",
    "gan": {"preset": "circle", "disc_steps": 1, "num_iterations": 300, "report_every": 30},
    "space": {"gen_lr": {"log_uniform": [1e-5, 1e-2]}, "disc_steps": {"choice": [1, 2, 5]}},
    "search": {"algorithm": "random", "num_trials": 8},
}


def _spec(**changes: Any) -> SweepSpec:
    return SweepSpec.parse({**copy.deepcopy(SPEC), **changes})


_SPACES = st.fixed_dictionaries(
    {"gen_lr": st.floats(1e-9, 0.1).map(lambda low: {"log_uniform": [low, 2 * low]})},
    optional={
        "dropout": st.just({"uniform": [0.0, 0.5]}),
        "batch_size": st.just({"quantized_uniform": [32, 128, 32]}),
        "gen_hidden": st.just({"choice": [[256, 512], [64]]}),
        "disc_steps": st.just({"int_uniform": [1, 5]}),
        "optimizer": st.just({"choice": ["adam", "sgd"]}),
    },
)


@given(configs(), _SPACES, st.integers(1, 1000), st.sampled_from(["random", "tpe"]))
def test_round_trip_through_yaml(
    gan: Any, space: dict[str, Any], num_trials: int, algorithm: str
) -> None:
    search = {"algorithm": algorithm, "num_trials": num_trials}
    spec = _spec(gan=gan.model_dump(), space=space, search=search)
    assert SweepSpec.parse(parse_yaml(spec.to_yaml())) == spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a'; touch x"}, ["name", "touch x"]),
        ({"name": "../../x"}, ["name"]),
        ({"name": "a" * 65}, ["name"]),
        ({"nam": "x"}, ["nam", "did you mean name?"]),
        ({"gan": {"gen_lrr": 1}}, ["gen_lrr", "did you mean gen_lr?"]),
        ({"gan": {"preset": "vanila"}}, ["vanila", "did you mean vanilla?"]),
        ({"gan": 3}, ["gan"]),
        ({"space": {}}, ["space is empty"]),
        ({"space": {"lr": {"uniform": [0, 1]}}}, ["lr: unknown field"]),
        ({"space": {"gen_lr": {"uniform": [0.1, 2.0]}}}, ["gen_lr", "2.0", "at most 1"]),
        ({"space": {"gen_lr": {"uniform": [-1.0, 0.1]}}}, ["gen_lr", "-1.0", "above 0"]),
        ({"space": {"loss": {"choice": ["hinge", "wgan"]}}}, ["loss", "'wgan'", "hinge"]),
        ({"space": {"disc_steps": {"uniform": [1.0, 5.0]}}}, ["disc_steps", "a whole number"]),
        ({"space": {"gen_lr": {"log_uniform": [0, 1]}}}, ["gen_lr", "low above 0"]),
        ({"space": {"gen_lr": {"grid": [0.1, 0.2]}}}, ["gen_lr", "grid", "random"]),
        ({"space": {"seed": {"choice": [1, 2]}}}, ["seed: cannot be searched"]),
        ({"space": {"num_iterations": {"choice": [40, 80]}}}, ["num_iterations: cannot be searched"]),
        ({"space": {"dataset": {"choice": ["mnist", "digits"]}}}, ["dataset: cannot be searched"]),
        ({"gan": {"num_threads": 3}}, ["num_threads 3", "resources.cpus"]),
        ({"search": {"algorithm": "tpe"}}, ["num_trials is missing"]),
        (
            {"search": {"algorithm": "bayes", "num_trials": 3}},
            ["search.algorithm", "grid, random, tpe"],
        ),
        ({"search": {"num_trials": 0}}, ["search.num_trials", "at least 1"]),
        ({"search": {"algorithm": "grid"}}, ["gen_lr", "log_uniform does not go with algorithm grid"]),
        ({"scheduler": {"name": "hyperband"}}, ["scheduler.name", "asha, none"]),
        ({"scheduler": {"reduction_factor": 1}}, ["reduction_factor", "above 1"]),
        ({"resources": {"cpus": 0}}, ["resources.cpus", "at least 1"]),
        ({"resources": {"cpu": 1}}, ["resources.cpu", "did you mean cpus?"]),
    ],
)
def test_wrong_specs_are_refused_in_one_line(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(**changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grid_counts_its_combinations_and_the_default() -> None:
    grid = {"algorithm": "grid"}
    inside = {"gen_lr": {"grid": [1e-3, 1e-4]}, "disc_steps": {"choice": [1, 2, 5]}}
    assert _spec(space=inside, search=grid).num_trials == 6
    outside = {"gen_lr": {"grid": [5e-3, 1e-4]}, "disc_steps": {"choice": [1, 2, 5]}}
    assert _spec(space=outside, search=grid).num_trials == 7
    with pytest.raises(ConfigError, match="tries all 6 trials"):
        _spec(space=inside, search={**grid, "num_trials": 3})


def test_grace_period_is_a_tenth_but_two_reports() -> None:
    assert _spec().grace_period == 2
    assert _spec(gan={**SPEC["gan"], "report_every": 5}).grace_period == 6
    assert _spec(gan={**SPEC["gan"], "report_every": 300}).grace_period == 1
    assert _spec(scheduler={"grace_period": 4}).grace_period == 4


def test_default_values_are_those_of_the_searched_fields() -> None:
    assert _spec().default_values == {"gen_lr": 1e-3, "disc_steps": 1}


def test_load_from_a_file_with_changes(tmp_path: Path) -> None:
    path = tmp_path / "my sweep.yaml"
    path.write_text(_spec().to_yaml())
    assert load_spec(str(path)) == _spec()
    changed = load_spec(str(path), {"num_iterations": 500, "search.seed": 3, "scheduler.name": "none"})
    assert changed.gan.num_iterations == 500
    assert changed.search.seed == 3
    assert changed.scheduler.name == "none"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("num_iteration", "did you mean num_iterations?"),
        ("search.sed", "did you mean seed?"),
        ("nothing.at.all", "nothing"),
        ("name.x", "name holds no fields"),
        ("space", "space"),
    ],
)
def test_unknown_changes_are_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec("circle", {name: 1})
    assert words in str(caught.value)


def test_a_whole_part_can_be_changed() -> None:
    spec = load_spec("circle", {"space": {"gen_lr": {"uniform": [0.1, 0.2]}}, "name": "other"})
    assert (list(spec.space), spec.name) == (["gen_lr"], "other")


def test_nested_anchors_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["name: x", "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    lines.append("space: {gen_lr: {choice: [*a11]}}")
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_spec(str(tmp_path / "bomb.yaml"))
    assert time.monotonic() - started < 2
    assert len(str(caught.value)) < 5000


def test_unknown_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean digits"):
        load_spec("digit")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_spec("nowhere.yaml")


def test_the_file_is_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("name: x\ngan: {gen_lr: 7}\nspace: {}\n")
    with pytest.raises(ConfigError, match=r"spec\.yaml: .*gen_lr"):
        load_spec(str(path))


def test_parse_change() -> None:
    assert parse_change("gen_lr=1e-4") == ("gen_lr", 1e-4)
    assert parse_change("gen_hidden=[64, 32]") == ("gen_hidden", [64, 32])
    with pytest.raises(ConfigError, match="expected field=value"):
        parse_change("gen_lr")


def test_work_is_estimated() -> None:
    text = describe_work(_spec())
    assert "8 trials of 300 iterations" in text
    assert "at most 2,400 iterations" in text
    assert "from report 2 of 10" in text


def test_places_are_resolved_to_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gan = {"dataset": "folder", "data_root": "images", "weights": "w.pth"}
    spec = resolve(SweepSpec.parse({**SPEC, "gan": gan}))
    assert spec.gan.data_root == str(tmp_path / "images")
    assert spec.gan.weights == str(tmp_path / "w.pth")


def test_choices_are_taken_in_any_spelling() -> None:
    spec = _spec(space={"activation": {"choice": ["LeakyReLU", "TANH"]}})
    assert spec.space["activation"].arguments == ("leaky_relu", "tanh")
    with pytest.raises(ConfigError, match="takes a list of different values"):
        _spec(space={"activation": {"choice": ["relu", "ReLU"]}})
