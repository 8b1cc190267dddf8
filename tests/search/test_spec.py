import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_config import configs
from tune_gan.errors import ConfigError
from tune_gan.presets import preset_names
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


def test_the_default_point_are_the_searched_fields_of_the_default() -> None:
    assert _spec().default_point == {"gen_lr": 1e-3, "disc_steps": 1}
    widths = _spec(space={"gen_hidden": {"choice": [[64], [128, 128]]}})
    assert widths.default_point == {"gen_hidden": "128,128"}


_WHEN_ADAM = {
    "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": "adam"}},
    "optimizer": {"choice": ["adam", "sgd"]},
}


def test_the_default_point_leaves_out_what_is_not_active() -> None:
    assert _spec(space=_WHEN_ADAM).default_point == {"optimizer": "adam", "beta2": 0.999}
    sgd = {**SPEC["gan"], "optimizer": "sgd"}
    assert _spec(gan=sgd, space=_WHEN_ADAM).default_point == {"optimizer": "sgd"}


FULL: dict[str, Any] = {
    "name": "full",
    "gan": {"dataset": "circle", "num_iterations": 300, "report_every": 30},
    "space": {
        "gen_lr": {"log_uniform": [1e-5, 1e-2]},
        "disc_lr": {"log_uniform": [1e-5, 1e-2], "when": {"optimizer": ["adam", "adamw"]}},
        "optimizer": {"choice": ["adam", "adamw", "sgd"]},
        "gen_hidden": {"choice": [[64], [128, 128]]},
        "disc_hidden": {"choice": [[64], [32]], "when": {"gen_hidden": [[128, 128]]}},
    },
    "constraints": ["disc_lr >= gen_lr", "gen_lr > 1e-6"],
    "search": {
        "algorithm": "tpe",
        "num_trials": 7,
        "seed": 3,
        "objectives": ["fid_proxy", "samples_per_s"],
        "warm_start": ["runs/a", "runs/b c"],
    },
    "scheduler": {"name": "asha", "grace_period": 3, "reduction_factor": 2.5, "brackets": 2},
    "health": {"min_coverage": 0.1, "min_spread": 0.0, "max_score_ratio": None, "evaluations": 4},
    "budget": {"time": "2h", "iterations": 12_345, "trial_time": "1h30m"},
    "failures": {"max_failures": 0, "report_timeout": "10m"},
    "resources": {"cpus": 2, "gpus": 0.25, "max_concurrent_trials": 3},
    "keep_checkpoints": 2,
}
_CONFIRMATION = {
    "candidates": {4: {"gen_lr": 1e-3}, 0: {}},
    "seeds": [7, 8],
    "top": 1,
    "num_ended": 6,
    "num_samples": 200,
}


def test_all_sections_are_read() -> None:
    spec = SweepSpec.parse(FULL)
    assert (spec.budget.time, spec.budget.trial_time) == (7200.0, 5400.0)
    assert (spec.budget.iterations, spec.failures.report_timeout) == (12_345, 600.0)
    assert spec.health.max_score_ratio is None
    assert [str(constraint) for constraint in spec.constraints] == FULL["constraints"]
    assert spec.search.directions == ["minimize", "maximize"]
    assert spec.space["disc_hidden"].when == {"gen_hidden": ("128,128",)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"confirmation": _CONFIRMATION},
        {"budget": {}, "constraints": []},
        {"health": {"max_score_ratio": 1.5}, "budget": {"time": 0.5}},
    ],
)
def test_all_sections_survive_yaml_and_json(changes: dict[str, Any]) -> None:
    spec = SweepSpec.parse({**FULL, **changes})
    assert SweepSpec.parse(parse_yaml(spec.to_yaml())) == spec
    assert SweepSpec.parse(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert SweepSpec.parse(parse_yaml(spec.to_yaml())).to_yaml() == spec.to_yaml()


def test_what_is_left_out_has_its_default() -> None:
    spec = _spec()
    assert spec.health.model_dump() == {
        "min_coverage": 0.05,
        "min_spread": 0.1,
        "max_score_ratio": 3.0,
        "evaluations": 3,
    }
    assert spec.budget.model_dump() == {"time": None, "iterations": None, "trial_time": None}
    assert spec.failures.model_dump() == {"max_failures": 2, "report_timeout": 3600.0}
    assert (spec.keep_checkpoints, spec.constraints, spec.confirmation) == (5, [], None)
    assert (spec.search.objectives, spec.search.directions) == (["fid_proxy"], ["minimize"])


_FORM = "is no time; give e.g. 2h, 1h30m, 45s or seconds"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"health": 3}, "health: 3 is not valid; give a mapping"),
        (
            {"health": {"min_spred": 0}},
            "health.min_spred: unknown field (given 0); did you mean min_spread?",
        ),
        (
            {"health": {"min_coverage": 2}},
            "health.min_coverage: 2 is not valid; give a number at least 0 and at most 1",
        ),
        (
            {"health": {"max_score_ratio": 1}},
            "health.max_score_ratio: 1 is not valid; give a number above 1 or null",
        ),
        (
            {"health": {"evaluations": 0}},
            "health.evaluations: 0 is not valid; give a whole number at least 1",
        ),
        ({"budget": {"time": "soon"}}, f"budget.time: 'soon' {_FORM}"),
        ({"budget": {"trial_time": "2 weeks"}}, f"budget.trial_time: '2 weeks' {_FORM}"),
        (
            {"budget": {"iterations": 0}},
            "budget.iterations: 0 is not valid; give a whole number at least 1 or null",
        ),
        (
            {"budget": {"iterations": "2h"}},
            "budget.iterations: '2h' is not valid; give a whole number at least 1 or null",
        ),
        ({"budget": {"tim": "2h"}}, "budget.tim: unknown field (given '2h'); did you mean time?"),
        (
            {"failures": {"max_failures": -1}},
            "failures.max_failures: -1 is not valid; give a whole number at least 0 and at most 1000",
        ),
        ({"failures": {"report_timeout": "x"}}, f"failures.report_timeout: 'x' {_FORM}"),
        (
            {"keep_checkpoints": 0},
            "keep_checkpoints: 0 is not valid; give a whole number at least 1",
        ),
        (
            {"scheduler": {"brackets": 11}},
            "scheduler.brackets: 11 is not valid; give a whole number at least 1 and at most 10",
        ),
        (
            {"space": {"gen_lr": {"uniform": [0.1, 0.2], "when": {"optimizer": "adam"}}}},
            "space.gen_lr.when: depends on optimizer, which is not in the space",
        ),
        (
            {
                "space": {
                    "beta1": {"choice": [0.1, 0.2], "when": {"beta2": 0.3}},
                    "beta2": {"choice": [0.3, 0.4], "when": {"beta1": 0.1}},
                }
            },
            "space.beta1.when: depends on beta2, which waits for it",
        ),
        (
            {"space": {"gen_lr": {"uniform": [0.1, 0.2], "when": {"gen_lr": 0.1}}}},
            "space.gen_lr.when: depends on gen_lr, which waits for it",
        ),
        (
            {
                "space": {
                    "gen_lr": {"uniform": [0.1, 0.2], "when": {"optimizer": ["adam", "sgd"]}},
                    "optimizer": {"choice": ["adam", "rmsprop"]},
                }
            },
            "space.gen_lr.when: optimizer never is 'sgd'",
        ),
        (
            {
                "space": {
                    "gen_lr": {"uniform": [0.1, 0.2], "when": {"dropout": 0.7}},
                    "dropout": {"uniform": [0.0, 0.5]},
                }
            },
            "space.gen_lr.when: dropout never is 0.7",
        ),
        (
            {"space": {"gen_lr": {"uniform": [0.1, 0.2], "when": ["optimizer"]}}},
            "space: gen_lr: when takes fields with their values, got ['optimizer']",
        ),
        (
            {"constraints": ["gen_lr >= 5e-3"]},
            "constraints: the default configuration does not fulfil gen_lr >= 5e-3 (gen_lr 0.001); "
            "change it under gan",
        ),
        (
            {"constraints": ["disc_lr > gen_lr"]},
            "constraints: the default configuration does not fulfil disc_lr > gen_lr "
            "(disc_lr 0.001, gen_lr 0.001); change it under gan",
        ),
        ({"constraints": ["beta1 >= 0"]}, "constraints: beta1 >= 0: none of its fields is searched"),
        ({"constraints": ["1 < 2"]}, "constraints: 1 < 2: none of its fields is searched"),
        (
            {"constraints": ["disc_lrr >= gen_lr"]},
            "constraints: disc_lrr >= gen_lr: disc_lrr is no number field; did you mean disc_lr?",
        ),
        (
            {"search": {"num_trials": 3, "objectives": ["fid_proxy", "speed"]}},
            "search.objectives.1: 'speed' is not valid; give a list, each entry one of fid_proxy, "
            "samples_per_s, train_time_s",
        ),
    ],
)
def test_wrong_sections_are_refused_with_this_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    ["gen_lr = 1", "gen_lr == 1", "gen_lr", "a < b < c", "gen_lr < ", "< 1", "a b < c", "", 5, None],
)
def test_what_is_no_comparison_is_refused(text: object) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(constraints=[text])
    assert str(caught.value) == (
        f"constraints: expected a comparison such as disc_lr >= gen_lr, got {text!r}"
    )


@pytest.mark.parametrize("field", ["loss", "gen_hidden", "spectral_norm", "data_root", "image_size"])
def test_what_is_no_number_is_not_compared(field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(constraints=[f"{field} > gen_lr"])
    said = str(caught.value)
    assert f"constraints: {field} > gen_lr: {field} is no number field" in said
    assert f"did you mean {field}?" not in said


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"algorithm": "random", "warm_start": ["a"]}, "does not go with algorithm random"),
        ({"objectives": ["samples_per_s"]}, "give fid_proxy, then samples_per_s or train_time_s"),
        ({"objectives": ["fid_proxy", "fid_proxy"]}, "give fid_proxy, then"),
        ({"objectives": ["train_time_s", "fid_proxy"]}, "give fid_proxy, then"),
        ({"objectives": []}, "search.objectives: [] is not valid"),
        ({"objectives": "fid_proxy"}, "search.objectives: 'fid_proxy' is not valid; give a list"),
        ({"warm_start": "runs/a"}, "search.warm_start: 'runs/a' is not valid; give a list"),
    ],
)
def test_wrong_searches_are_refused(search: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(search={"num_trials": 3, **search})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [{"candidates": {"x": {}}}, {"candidates": {1: 5}}, {"candidates": [1]}, 5]
)
def test_a_wrong_confirmation_is_refused_in_one_line(bad: object) -> None:
    given = {"seeds": [1], "top": 1, "num_ended": 2, **bad} if isinstance(bad, dict) else bad
    with pytest.raises(ConfigError, match="confirmation") as caught:
        _spec(confirmation=given)
    assert "\n" not in str(caught.value)


def test_the_bounds_of_a_time_are_told() -> None:
    with pytest.raises(ConfigError, match=r"budget\.time: .* is not valid; give .* above 0"):
        _spec(budget={"time": "0s"})


@pytest.mark.parametrize(
    "distribution",
    [
        {"uniform": [1, 5]},
        {"log_uniform": [1, 5]},
        {"quantized_uniform": [1, 5, 0.5]},
        {"quantized_uniform": [1, 5, 2.0]},
    ],
)
def test_a_whole_number_field_is_not_searched_by_fractions(distribution: dict[str, Any]) -> None:
    """Whole ends let it through, and then every trial drawn was refused by the configuration."""
    with pytest.raises(ConfigError, match="disc_steps"):
        _spec(space={"disc_steps": distribution})


def test_a_condition_that_never_holds_is_refused() -> None:
    space = {**_WHEN_ADAM, "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": []}}}
    with pytest.raises(ConfigError, match="beta2"):
        _spec(space=space)


def test_conditions_take_any_spelling() -> None:
    space = {**_WHEN_ADAM, "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": "ADAM"}}}
    assert _spec(space=space).space["beta2"].when == {"optimizer": ("adam",)}


def test_constraints_look_at_fields_that_are_not_searched_too() -> None:
    spec = _spec(constraints=["disc_lr >= gen_lr", "1e-4 < gen_lr"])
    assert spec.allows({"gen_lr": 1e-3})
    assert not spec.allows({"gen_lr": 2e-3})
    assert not spec.allows({"gen_lr": 1e-4})
    assert spec.allows({})


_GRID_SPACE = {
    "beta2": {"grid": [0.9, 0.99], "when": {"optimizer": "adam"}},
    "optimizer": {"choice": ["adam", "sgd"]},
    "disc_steps": {"grid": [1, 2]},
}


def test_a_grid_with_conditions_and_constraints_has_the_default_first() -> None:
    gan = {**SPEC["gan"], "beta2": 0.99}
    spec = _spec(gan=gan, space=_GRID_SPACE, search={"algorithm": "grid"}, constraints=["beta2 > 0.95"])
    assert spec.given_points() == [
        {"optimizer": "adam", "beta2": 0.99, "disc_steps": 1},
        {"optimizer": "adam", "beta2": 0.99, "disc_steps": 2},
        {"optimizer": "sgd", "disc_steps": 1},
        {"optimizer": "sgd", "disc_steps": 2},
    ]
    assert spec.num_trials == 4
    assert _spec(gan=gan, space=_GRID_SPACE, search={"algorithm": "grid"}).num_trials == 6


def test_an_oversized_grid_is_refused_at_once() -> None:
    fields = ("batch_size", "latent_dim", "features", "gp_weight", "r1_weight", "disc_steps")
    space = {field: {"grid": list(range(2, 18))} for field in fields}
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        _spec(space=space, search={"algorithm": "grid"})
    assert str(caught.value) == "the grid has 16,777,216 points, more than 100,000; use random"
    assert time.thread_time() - started < 2


def test_a_confirmation_trains_each_candidate_with_each_seed() -> None:
    spec = SweepSpec.parse({**FULL, "confirmation": _CONFIRMATION})
    assert spec.given_points() == [
        {"gen_lr": 1e-3, "seed": 7},
        {"seed": 7},
        {"gen_lr": 1e-3, "seed": 8},
        {"seed": 8},
    ]
    assert spec.num_trials == 4
    assert spec.confirmation is not None
    of = [spec.confirmation.name_of(number) for number in range(4)]
    assert of == [
        "trial 4 with seed 7",
        "trial 0 with seed 7",
        "trial 4 with seed 8",
        "trial 0 with seed 8",
    ]


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
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        load_spec(str(tmp_path / "bomb.yaml"))
    assert time.thread_time() - started < 2
    # Each unknown field is answered with all that there are, its values in short.
    assert len(str(caught.value)) < 500 * len(lines)


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
    few = {**SPEC["gan"], "num_iterations": 60}
    assert describe_work(_spec(gan=few)).endswith("; no trial stops early, with 2 reports")


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


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (1.5, "auto", "resources.gpus 1.5: above 1 only whole GPUs can be given; set 1 or 2"),
        (1e-5, "auto", "resources.gpus 1e-05: the least share of a GPU is 0.0001"),
        (
            1,
            "cuda:3",
            "gan.device cuda:3: Ray shows a trial one GPU, cuda:0, whichever those of the machine are; "
            "set cuda",
        ),
        ("auto", "cuda:1", "gan.device cuda:1: Ray shows a trial one GPU, cuda:0, "),
        (0.25, "cuda:1", "gan.device cuda:1: Ray shows a trial one GPU, cuda:0, "),
        (2, "cuda:2", "gan.device cuda:2: Ray shows a trial its 2 GPUs, cuda:0 to cuda:1, "),
        (
            0,
            "cuda",
            "gan.device cuda: resources.gpus is 0, which gives a trial no GPU; leave one of them out",
        ),
        (0, "mps", "gan.device mps: resources.gpus is 0, "),
        (
            1,
            "cpu",
            "gan.device cpu: resources.gpus is 1, but a trial on a CPU takes no GPU; leave one of them "
            "out",
        ),
        (0.25, "cpu", "gan.device cpu: resources.gpus is 0.25, "),
    ],
)
def test_gpus_that_no_trial_can_have_are_refused(gpus: Any, device: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _spec(gan={**SPEC["gan"], "device": device}, resources={"gpus": gpus}).require_device()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("gpus", "device"),
    [
        ("auto", "auto"),
        ("auto", "cpu"),
        ("auto", "cuda:0"),
        ("auto", "mps"),
        (0, "cpu"),
        (0, "auto"),
        (2, "cuda:1"),
        (0.25, "mps"),
        (64, "cuda"),
    ],
)
def test_gpus_and_devices_that_go_together(gpus: Any, device: str) -> None:
    spec = _spec(gan={**SPEC["gan"], "device": device}, resources={"gpus": gpus})
    assert SweepSpec.parse(spec.model_dump(mode="json")) == spec


def test_gpus_are_auto_by_default_and_in_all_presets() -> None:
    assert _spec().resources.gpus == "auto"
    assert {load_spec(name).resources.gpus for name in preset_names()} == {"auto"}
