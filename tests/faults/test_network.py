"""The network between tasks and servers fails: no step hangs, each says that a retry may help, and a retry does."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import MySQLdb
import psycopg
import pytest

from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.director.coordination import index_build
from airflow_reindex.director.coordination.index_build import IndexBuild
from airflow_reindex.director.extract import extractor
from airflow_reindex.director.mysql import client, integer_reader
from airflow_reindex.director.mysql.client import Timeouts, execute, is_transient, query
from airflow_reindex.hooks.qserv import QservHook
from airflow_reindex.vectors.stores.pgvector import connector
from sandbox.catalog.catalog import CatalogSpec, CatalogSummary, generate, truth
from sandbox.servers.cluster import Sandbox
from tests.faults.proxy import Proxy
from tests.support.build import Build, assert_same, clean_czar

WORKER = "worker-1"
SPEC = CatalogSpec(database="sky_network", rows=5_000, chunks=12, empty_chunks=0)
#: Seconds until a silent server is given up by those who have little patience, and until any step must have ended.
PATIENCE, LIMIT = 1, 90
TIMEOUTS = {
    "connect_timeout": PATIENCE,
    "network_timeout": PATIENCE,
    "read_timeout": PATIENCE,
    "worker_read_timeout": PATIENCE,
}

#: What may befall a network: at once, or in mid-stream after some bytes.
FAULTS: dict[str, Callable[[Proxy, int], None]] = {
    "refused": lambda proxy, _: proxy.refuse(),
    "reset": lambda proxy, some: proxy.reset(some),
    "silent from the start": lambda proxy, _: proxy.freeze(),
    "silent in mid-stream": lambda proxy, some: proxy.freeze(some),
}
every_fault = pytest.mark.parametrize("fault", FAULTS)


class Network:
    """The proxies, in front of the czar and of WORKER, and the servers as the `qserv` connection reaches them."""

    def __init__(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self.czar = Proxy(sandbox.czar.port)
        self.worker = Proxy(sandbox.workers[WORKER].port)
        ports = {"AIRFLOW_CONN_QSERV_DEFAULT": self.czar.port, "AIRFLOW_CONN_QSERV_WORKER_1": self.worker.port}
        for name, value in sandbox.connections().items():
            described = json.loads(value)
            described["port"] = ports.get(name, described["port"])
            monkeypatch.setenv(name, json.dumps(described))
            if name == "AIRFLOW_CONN_QSERV_DEFAULT":
                described["extra"].update(TIMEOUTS)
                monkeypatch.setenv("AIRFLOW_CONN_QSERV_IMPATIENT", json.dumps(described))
        self.servers = QservHook("qserv_default").servers
        self.impatient = QservHook("qserv_impatient").servers

    def heal(self) -> None:
        """All is well again."""
        self.czar.heal()
        self.worker.heal()


@pytest.fixture(scope="module")
def sky(shaky: Sandbox) -> CatalogSummary:
    """The catalog of these tests."""
    return generate(shaky, SPEC)


@pytest.fixture
def network(shaky: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Proxies that work."""
    made = Network(shaky, monkeypatch)
    with made.czar, made.worker:
        yield made


@pytest.fixture
def run(sky: CatalogSummary, shaky: Sandbox, network: Network, shaky_build: Callable[..., Build]) -> Iterator[Build]:
    """A build that reaches its servers by the proxies; nothing is left of it."""
    made = shaky_build(SPEC.database, rebuild=1, local=1)
    made.servers = network.servers
    with clean_czar(shaky):
        yield made


@contextmanager
def in_time() -> Iterator[None]:
    """Nothing hangs."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LIMIT


def fails(run: Build, network: Network, step: Callable[..., object], *values: int) -> BaseException:
    """Do a step that fails in time, and in a way that a retry may mend; its error. All is well again afterwards."""
    run.servers, patient = network.impatient, run.servers
    with in_time(), pytest.raises((TransientError, MySQLdb.Error)) as caught:
        step(*values)
    assert is_transient(caught.value), caught.value
    run.servers = patient
    network.heal()
    error: BaseException = caught.value
    return error


def assert_done(run: Build) -> None:
    """The build can be published, and all is as if nothing had happened."""
    assert run.publish().rows == SPEC.rows
    run.finish()
    assert_same(run.index(), truth(SPEC).index_rows())
    assert run.working_tables() == []


def finish(run: Build) -> None:
    """All steps after the extraction, and the proof."""
    run.split()
    run.load_all()
    assert_done(run)


@pytest.mark.parametrize(
    ("fault", "way"),
    [*((fault, "socket") for fault in FAULTS), ("reset", "driver"), ("silent in mid-stream", "driver")],
)
@pytest.mark.usefixtures("one_group_a_worker")
def test_worker_out_of_reach(
    run: Build, network: Network, fault: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "driver":
        monkeypatch.setattr(integer_reader, "usable", lambda _: False)
    plan = run.plan()
    mine = next(i for i, chunks in enumerate(plan.groups) if chunks[0].workers == (WORKER,))
    planned = [chunk.chunk for chunk in plan.groups[mine]]
    FAULTS[fault](network.worker, 20_000)
    error = fails(run, network, run.extract, mine)
    failures = run.failures("extract")
    staged = run.staged_chunks()
    assert sorted([f.chunk for f in failures] + staged) == sorted(planned)
    assert bool(staged) == ("mid-stream" in fault or fault == "reset")
    assert {f.worker for f in failures} == {WORKER}
    assert str(failures[0].chunk) in str(error)
    # 2002 or 2003: cannot connect; 2013: the connection was lost, or nobody answered.
    numbers = ("2002", "2003") if fault == "refused" else ("2006", "2013", "2002")
    assert all(f.message.endswith(tuple(f"errno: {number}" for number in numbers)) for f in failures), failures
    assert sum("Failed to connect to the worker service" in f.message for f in failures) >= len(failures) - 1
    run.extract_all()
    assert run.failures("extract") == []
    finish(run)


def test_worker_away_is_asked_once_a_task(run: Build, network: Network) -> None:
    run.plan()
    network.worker.freeze()
    before, run.servers = network.worker.connections, network.impatient
    for group in range(len(run.plan_made.groups)):
        with in_time():
            try:
                run.extract(group)
            except TransientError:
                continue
    assert network.worker.connections - before <= len(run.plan_made.groups)


@every_fault
def test_czar_out_of_reach_while_extracting(
    run: Build, network: Network, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = run.plan()
    strike_at(monkeypatch, extractor, "stream", lambda: FAULTS[fault](network.czar, 200))
    fails(run, network, run.extract, 0)
    run.extract_all()
    assert run.staged_chunks() == sorted(chunk.chunk for group in plan.groups for chunk in group)
    finish(run)


@every_fault
def test_czar_out_of_reach_while_loading(run: Build, network: Network, fault: str) -> None:
    run.to_load()
    # The rows as text are more than that.
    FAULTS[fault](network.czar, 60_000)
    fails(run, network, run.load, 0)
    # Nor has the server kept a part of it.
    run.load_all()
    assert_done(run)


@every_fault
def test_czar_out_of_reach_while_publishing(
    run: Build, network: Network, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.to_load()
    run.load_all()
    strike_at(monkeypatch, IndexBuild, "checksum", lambda: FAULTS[fault](network.czar, 100))
    fails(run, network, run.publish)
    assert_done(run)


@pytest.mark.parametrize("function", ["swap", "tidy"])
def test_answers_get_lost_while_publishing(
    run: Build, network: Network, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the server is told is done; only nobody hears of it.
    run.to_load()
    run.load_all()
    lossy = {"swap": "RENAME TABLE", "tidy": "DROP TABLE"}[function]

    def lose(connection: Any, sql: str, *values: Any) -> int:
        if sql.startswith(lossy):
            network.czar.freeze(answers_only=True)
        return execute(connection, sql, *values)

    for module in (index_build, client):
        monkeypatch.setattr(module, "execute", lose)
    fails(run, network, run.publish)
    # Readers have the new index already when nobody knows that it was swapped in.
    assert len(run.index()[0]) == SPEC.rows
    for module in (index_build, client):
        monkeypatch.setattr(module, "execute", execute)
    assert_done(run)


def test_slow_network_is_no_fault(run: Build, network: Network) -> None:
    run.plan()
    # The answers are longer on their way than a silent server is waited for, but some of them comes all the time.
    network.worker.slow(35_000)
    patient, run.servers = run.servers, network.impatient
    began = time.monotonic()
    run.extract_all()
    assert time.monotonic() - began > PATIENCE
    # A file is in the buffers on the way long before the server has it: only a patient client gets to the end.
    network.czar.slow(300_000)
    run.servers = patient
    run.split()
    run.load_all()
    network.heal()
    assert_done(run)


def test_server_that_takes_no_byte(network: Network) -> None:
    # A hundred bytes a second: the buffers on the way are full at once.
    with in_time(), closing(network.impatient.czar()) as connection:
        network.czar.slow(100)
        with pytest.raises(MySQLdb.Error) as caught:
            query(connection, "SELECT LENGTH(%s)", ["x" * (12 << 20)])
    assert is_transient(caught.value), caught.value


def test_network_is_watched_by_tcp(network: Network) -> None:
    for servers, seconds in ((network.servers, 120), (network.impatient, PATIENCE)):
        for connect in (servers.czar, *servers.workers.values()):
            with closing(connect()) as connection, socket.socket(fileno=os.dup(connection.fileno())) as own:
                assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= seconds
                assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == seconds * 1_000


def test_long_statement_is_no_fault(network: Network) -> None:
    # TCP's own watch takes the silence of a living server for none, however short its time.
    timeouts = Timeouts(answer=60, network=PATIENCE)
    with closing(network.servers.czar()) as connection:
        timeouts.apply(connection)
        assert query(connection, "SELECT SLEEP(1.2)") == [(0,)]


@pytest.mark.parametrize("name", TIMEOUTS)
def test_time_outs_are_numbers(shaky: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    described = json.loads(shaky.connections()["AIRFLOW_CONN_QSERV_DEFAULT"])
    described["extra"][name] = "604801"
    for other, value in shaky.connections().items():
        monkeypatch.setenv(other, value)
    monkeypatch.setenv("AIRFLOW_CONN_QSERV_DEFAULT", json.dumps(described))
    with pytest.raises(RequestError, match=f"'{name}' in the extra .* must be from 1 to 604800"):
        QservHook("qserv_default").servers  # noqa: B018


def test_postgres_that_is_silent_from_the_start() -> None:
    # Accepted by the kernel, and never looked at.
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            connector(f"postgresql://somebody@127.0.0.1:{nobody.getsockname()[1]}/any?connect_timeout=2")()
    # What the URI says wins over the default of ten seconds.
    assert time.monotonic() - began < 8


def strike_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, strike: Callable[[], None]) -> None:
    """Let a fault begin when a function is called for the first time."""
    real = getattr(module, name)

    def call(*values: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        strike()
        return real(*values, **options)

    monkeypatch.setattr(module, name, call)
