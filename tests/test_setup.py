"""The set-up of a checkout: make's targets, the scripts, the containers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from sandbox.catalog.catalog import CatalogSpec, drop
from sandbox.deployment import deployment_spec
from sandbox.servers import grants
from sandbox.servers.cluster import Sandbox

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
TARGETS = (
    *("help", "setup", "demo", "test", "durations", "unit", "cluster", "cluster-test", "faults"),
    *("bench", "quick-bench", "lint", "audit", "format", "clean"),
)
SCRIPTS = ("scripts/setup", "scripts/clean", "scripts/audit", "scripts/compose-env", "docker/init", ".ci/run")
FEW_TOOLS = ("bash", "sh", "dirname", "cat", "cksum", "cut", "sort", "id", "env", "mkdir", "tail")


def call(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without input, and catch what it says."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=600, **options
    )


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the project's folder, as if no other make had started it."""
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return call("make", "--no-print-directory", *arguments, cwd=ROOT, env=env)


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_make_lists_its_targets(arguments: tuple[str, ...]) -> None:
    listed = [line.split()[1] for line in make(*arguments).stdout.splitlines()]
    assert listed == list(TARGETS)


@pytest.mark.parametrize("target", ["demo", "test", "bench", "lint", "format"])
def test_each_target_makes_the_environment_first(target: str) -> None:
    result = make("-n", target)
    assert result.returncode == 0
    assert result.stdout.splitlines()[0] == "scripts/setup"


def test_test_runs_lint_types_and_tests() -> None:
    commands = make("-n", "test").stdout
    for program in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert program in commands


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_valid_and_executable(script: str) -> None:
    path = ROOT / script
    assert call("bash", "-n", path).returncode == 0
    assert path.stat().st_mode & stat.S_IXUSR
    assert "set -euo pipefail" in path.read_text()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of what the set-up reads, and a folder of programs with hardly any in it."""
    project, programs = tmp_path / "project", tmp_path / "bin"
    programs.mkdir()
    for name in FEW_TOOLS:
        (programs / name).symlink_to(shutil.which(name) or name)
    shutil.copytree(ROOT / "scripts", project / "scripts")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, project)
    yield project, programs
    assert not (project / ".venv").exists()


def test_without_apt_the_packages_are_named(bare: tuple[Path, Path]) -> None:
    project, programs = bare
    (programs / "python3").symlink_to(sys.executable)
    result = call(project / "scripts" / "setup", env={"PATH": str(programs), "HOME": str(project)})
    assert result.returncode != 0
    for part in (
        "apt-get install mariadb-server-core mariadb-client-core libmariadb-dev pkg-config gcc",
        "dnf install mariadb-server mariadb-connector-c-devel pkgconf-pkg-config gcc",
        "brew install mariadb pkgconf",
    ):
        assert part in result.stderr
    missing = result.stderr.splitlines()[0]
    assert "libmariadb-dev" in missing
    assert "gcc" in missing


def test_without_a_new_python_it_says_so(bare: tuple[Path, Path]) -> None:
    project, programs = bare
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (programs / "python3").chmod(0o755)
    result = call(project / "scripts" / "setup", env={"PATH": str(programs), "HOME": str(project)})
    assert result.returncode != 0
    assert "no Python from 3.11 on was found" in result.stderr
    assert "PYTHON=" in result.stderr


def test_the_set_up_does_nothing_when_all_is_ready(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, project)
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    text = b"".join(
        [
            f"{project.resolve()}\n".encode(),
            *((project / name).read_bytes() for name in ("pyproject.toml", "uv.lock", "scripts/setup")),
        ]
    )
    stamp = project / ".venv" / ".ready"
    stamp.write_bytes(subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout)
    result = call(project / "scripts" / "setup")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(path.name for path in project.iterdir()) == [".venv", "pyproject.toml", "scripts", "uv.lock"]


def test_clean_without_environment_removes_all_state(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for folder in (".venv", ".state/tools", ".ruff_cache", "package/__pycache__"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "package" / "module.py").touch()
    assert call(tmp_path / "scripts" / "clean").returncode == 0
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if "scripts" not in path.parts)
    assert left == ["package", "package/module.py"]


def test_passwords_for_the_containers_are_random_and_private(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        result = call(ROOT / "scripts" / "compose-env", folder)
        assert result.returncode == 0
        assert (folder / ".env").stat().st_mode & 0o777 == 0o600
        contents.append(dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines()))
        assert not any(value in result.stdout + result.stderr for value in contents[-1].values())
        assert [path.name for path in folder.iterdir()] == [".env"]
    one, other = contents
    assert all(len(value) >= 43 and one[name] != other[name] for name, value in one.items())
    assert len(set(one.values())) == len(one)
    assert set(one) == set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yaml").read_text()))


def test_existing_passwords_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("kept")
    assert call(ROOT / "scripts" / "compose-env", tmp_path).returncode == 0
    assert (tmp_path / ".env").read_text() == "kept"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The parsed compose file."""
    value: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return value


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":(\d+(\.\d+)*(-pg\d+)?|RELEASE\.[0-9TZ-]+)$", service["image"]), name
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    airflow = next(package["version"] for package in lock["package"] if package["name"] == "apache-airflow")
    assert f"ARG AIRFLOW_VERSION={airflow}\n" in (ROOT / "docker" / "Dockerfile").read_text()


def test_ports_are_open_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_in_the_file(compose: dict[str, Any]) -> None:
    secret = re.compile(r"PASSWORD(?!S_FILE)|SECRET|FERNET|SQL_ALCHEMY_CONN")
    values = [
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if secret.search(name)
    ]
    assert values
    assert all(re.search(r"\$\{\w+:\?.+\}", value) for value in values)


def test_services_have_health_checks_or_run_once(compose: dict[str, Any]) -> None:
    services = compose["services"]
    once = {name for name, service in services.items() if service.get("restart") == "no"}
    assert all("healthcheck" in service for name, service in services.items() if name not in once)
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in once else "service_healthy"
            assert how["condition"] == wanted, (name, other)
    waited_for = {other for service in services.values() for other in service.get("depends_on", {})}
    assert once <= waited_for


def test_what_the_containers_need_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", dockerfile, re.MULTILINE)
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_containers_are_what_the_cluster_is(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, command in deployment_spec.COMMANDS.items():
        assert tuple(services[name]["command"]) == command
        environment = services[name]["environment"]
        assert {key: environment[key] for key in deployment_spec.SETTINGS} == dict(deployment_spec.SETTINGS)
        assert set(environment) - set(deployment_spec.SETTINGS) == deployment_spec.OWN_SETTINGS
        volumes = {volume.split(":")[0] for volume in services[name]["volumes"]}
        assert volumes == {"./dags", "infile", "auth"}, "staged rows and logs are shared by the object store only"


def test_docker_accepts_the_file(tmp_path: Path) -> None:
    if shutil.which("docker") is None or call("docker", "compose", "version").returncode:
        pytest.skip("docker compose is not installed")
    call(ROOT / "scripts" / "compose-env", tmp_path)
    file = ROOT / "docker-compose.yaml"
    given = call("docker", "compose", "--env-file", tmp_path / ".env", "-f", file, "config", "--quiet")
    assert given.returncode == 0, given.stderr
    (tmp_path / "empty").touch()
    refused = call("docker", "compose", "--env-file", tmp_path / "empty", "-f", file, "config", "--quiet")
    assert "run scripts/compose-env first" in refused.stderr


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that prepares the containers' servers."""
    spec = importlib.util.spec_from_file_location("compose_prepare", ROOT / "docker" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(grants, "ACCOUNT_HOSTS", ("%", "localhost"))
    return module


@pytest.fixture
def remove_account(sandbox: Sandbox) -> Iterator[None]:
    """Removes the account that only containers have."""
    yield
    for server in sandbox.servers:
        with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP USER IF EXISTS '{grants.ACCOUNT}'@'%'")


@pytest.mark.usefixtures("remove_account")
def test_the_containers_servers_are_prepared(sandbox: Sandbox, tmp_path: Path, prepare: Any) -> None:
    def server(name: str) -> Any:
        one = {"czar": sandbox.czar, **sandbox.workers}[name]
        return prepare.Server("127.0.0.1", one.port, one.passwords["root"])

    servers = prepare.Servers(server("czar"), {name: server(name) for name in sandbox.workers}, tmp_path)
    spec = replace(CatalogSpec(), database="sky_compose", rows=500, chunks=6)
    prepare.prepare(servers, "not-used", spec)
    seen = [grants_of(one, "%") for one in sandbox.servers]
    prepare.prepare(servers, "not-used", spec)
    assert [grants_of(one, "%") for one in sandbox.servers] == seen
    for grant in grants.CZAR_GRANTS:
        assert any(grant.scope in line for line in seen[0])
    for worker in seen[1:]:
        assert any(r"GRANT SELECT ON `sky\_compose`.*" in line for line in worker)
    drop(sandbox, spec.database)
    made = prepare.connections(servers, "not-used")
    assert set(made) == {"qserv_default", *(f"qserv_{name.replace('-', '_')}" for name in sandbox.workers)}


def grants_of(server: Any, host: str) -> set[str]:
    """What the account may do on a server."""
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(f"SHOW GRANTS FOR '{grants.ACCOUNT}'@'{host}'")
        return {line for (line,) in cursor.fetchall()}
