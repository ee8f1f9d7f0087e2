"""The wheel as users get it: what is in it, and that each of its modules can be imported without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import airflow_reindex

names = [found.name for found in pkgutil.walk_packages(airflow_reindex.__path__, "airflow_reindex.")]
for name in names:
    importlib.import_module(name)
project = ("airflow_reindex", "sandbox", "tests", "benchmarks")
loaded = {n: getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if n.split(".")[0] in project}
print(json.dumps({"walked": names, "loaded": loaded}))
"""


def run(*arguments: object, cwd: Path, **env: object) -> str:
    """Run Python in a folder, without anything of this project on its path but what is asked for."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **{name: str(value) for name, value in env.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run("-c", BUILD, folder, cwd=ROOT)
    (found,) = folder.glob("*.whl")
    return found


def test_what_is_in_it(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entry_points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        points = archive.read(entry_points).decode()
    assert {name.split("/")[0] for name in names} == {"airflow_reindex"}, "no sandbox, no tests, no benchmarks"
    package = ROOT / "airflow_reindex"
    source = {
        str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == source
    static = {name for name in names if name.startswith("airflow_reindex/plugin/static/")}
    assert {name.rpartition(".")[2] for name in static} == {"css", "html", "js"}
    assert "airflow_reindex/py.typed" in names
    assert "[apache_airflow_provider]" in points
    assert "[airflow.plugins]" in points


def test_each_module_can_be_imported_from_it(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)
    said = run("-c", IMPORT_ALL, cwd=elsewhere, PYTHONPATH=target, AIRFLOW_HOME=tmp_path / "home")
    found = json.loads(said.splitlines()[-1])
    assert found["loaded"]["airflow_reindex"] == str(target / "airflow_reindex" / "__init__.py")
    assert [name for name, file in found["loaded"].items() if not Path(file).is_relative_to(target)] == []
    modules = {
        ".".join(path.relative_to(target).with_suffix("").parts) for path in (target / "airflow_reindex").rglob("*.py")
    }
    assert {name.removesuffix(".__init__") for name in modules} == {"airflow_reindex", *found["walked"]}
