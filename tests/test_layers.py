"""Who may import torch, ray and pandas."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tune_gan

_PACKAGE = Path(tune_gan.__file__).parent
_RAY = {"ray", "optuna"}
_FORBIDDEN = {
    "config.py": {"torch", "ray", "optuna", "pandas"},
    "settings.py": {"torch", "ray", "optuna", "pandas"},
    "errors.py": {"torch", "ray", "optuna", "pandas"},
    "places.py": {"torch", "ray", "optuna", "pandas"},
    "space.py": {"torch", "ray", "pandas", "tune_gan.search"},
    "grids.py": {"torch", "ray", "optuna", "pandas"},
    "presets": {"torch", "ray", "optuna", "pandas"},
    "gan": {*_RAY, "pandas", "tune_gan.search", "tune_gan.results"},
    "metrics": {*_RAY, "pandas", "tune_gan.gan", "tune_gan.search", "tune_gan.results"},
    "results": {*_RAY, "torch", "torchvision", "tune_gan.gan", "tune_gan.metrics", "tune_gan.search"},
    "search": {"pandas"},
    "submission": {"torch", "ray", "optuna", "pandas", "tune_gan.gan", "tune_gan.metrics"},
}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("place", _FORBIDDEN)
def test_layers(place: str) -> None:
    target = _PACKAGE / place
    files = [target] if target.is_file() else sorted(target.rglob("*.py"))
    assert files
    for path in files:
        # A command, which trains what ships; nothing imports it.
        if path.name == "train_features.py":
            continue
        for name in _imports(path):
            # Optuna's importance of hyperparameters is all that results want of it; jobs are sent by
            # Ray's own client.
            allowed = {"importance.py": "optuna", "ray_jobs.py": "ray"}.get(path.name)
            for forbidden in _FORBIDDEN[place] - {allowed}:
                assert not f"{name}.".startswith(f"{forbidden}."), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tune_gan", {"torch", "ray", "pandas", "optuna"}),
        # What takes as long to import as torch, and what a training or a sweep does without.
        (
            "import tune_gan.search.tuner, tune_gan.search.trainable, tune_gan.gan.run_folder",
            {"torchvision", "torch._dynamo", "sympy"},
        ),
        ("import tune_gan.cli", {"torch", "ray", "pandas", "optuna"}),
        ("from tune_gan import load_results; import tune_gan.results.show", {"torch", "ray"}),
        ("from tune_gan import load_losses", {"torch", "ray", "optuna"}),
        ("import tune_gan.results.answers, tune_gan.results.report.page", {"torch", "ray", "optuna"}),
        ("from tune_gan import SweepSpec", {"torch", "ray", "optuna"}),
        ("import tune_gan.submission.submit", {"torch", "ray", "optuna", "pandas"}),
    ],
)
def test_what_an_import_loads(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tune_gan" in loaded.stdout.split()
    assert not absent & set(loaded.stdout.split())


def test_public_names() -> None:
    for name in tune_gan.__all__:
        assert getattr(tune_gan, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tune_gan.nothing
