"""What is measured, on which catalogs and servers; the sides alternate, so that a noisy machine is noisy for all."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_reindex.core.staging import Folder
from benchmarks.director import ceiling, qserv
from benchmarks.director.lookups import Latency, Readers, compare
from benchmarks.director.measure import Measured, run_sql
from benchmarks.director.object_store import s3_server
from benchmarks.director.project import Builder, processes
from sandbox.catalog.catalog import CatalogSpec, generate, truth
from sandbox.demo.runner import Stage
from sandbox.servers.cluster import INDEX_DATABASE, Sandbox
from sandbox.servers.identifiers import quote

MEGA = 1_000_000
SMALL = CatalogSpec(database="small", rows=10_000, chunks=100, empty_chunks=0)


@dataclass
class Results:
    """
    Everything that was measured.

    :param builds: by scenario.
    :param lookups: latencies.
    :param readers: latencies beside a build, by scenario.
    :param other: further figures by name.
    :param errors: the traceback of each scenario that failed; what it had measured until then counts.
    """

    builds: dict[str, list[Measured]] = field(default_factory=dict)
    lookups: list[Latency] = field(default_factory=list)
    readers: list[Latency] = field(default_factory=list)
    other: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def side(self, scenario: str, side: str) -> Measured | None:
        """
        The median run of a side.

        :param scenario: the scenario.
        :param side: the side.
        """
        runs = sorted((m for m in self.builds.get(scenario, ()) if m.side == side), key=lambda m: m.seconds)
        return runs[len(runs) // 2] if runs else None


class Bench:
    """
    Runs scenarios.

    :param folder: where everything lies that is made.
    :param say: takes a line of progress.
    :param repeat: how often each side runs.
    """

    def __init__(self, folder: Path, say: Any, repeat: int) -> None:
        self.folder, self.say, self.repeat = folder, say, repeat
        self.results = Results()

    @contextmanager
    def servers(self, pool_size: str) -> Iterator[Sandbox]:
        """
        The sandbox, with a buffer pool of the czar of some size.

        :param pool_size: such as ``128M``.
        :yields: running servers.
        """
        options = {"innodb_buffer_pool_size": pool_size}
        with Sandbox(self.folder / "sandbox", workers=2, czar_options=options) as sandbox:
            yield sandbox

    @contextmanager
    def builder(self, pool_size: str) -> Iterator[tuple[Sandbox, Builder]]:
        """
        The servers, and what builds on them in fresh processes.

        :param pool_size: the czar's buffer pool.
        :yields: both.
        """
        with self.servers(pool_size) as sandbox, processes() as pool:
            yield sandbox, Builder(sandbox, pool, self.folder / "staging")

    def catalog(self, sandbox: Sandbox, rows: int, chunks: int) -> CatalogSpec:
        """
        Make a catalog, unless it is there.

        :param sandbox: the servers.
        :param rows: its rows.
        :param chunks: its chunks.
        """
        spec = CatalogSpec(database=f"sky_{rows}_{chunks}", rows=rows, chunks=chunks, empty_chunks=0)
        there = run_sql(sandbox, "SHOW DATABASES LIKE 'qservReplica'") and run_sql(
            sandbox,
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'qservReplica' AND TABLE_NAME = 'replica'",
        )
        known = there and run_sql(sandbox, f"SELECT 1 FROM qservReplica.replica WHERE `database` = '{spec.database}'")  # noqa: S608 - the benchmark's own names
        if not known:
            self.say(f"making a catalog of {rows:,} rows in {chunks:,} chunks")
            generate(sandbox, spec)
        return spec

    def compare(
        self, scenario: str, pool_size: str, rows: int, chunks: int, *, sides: tuple[str, ...], lookups: bool = False
    ) -> None:
        """
        Build one catalog's index in each way, in turn.

        :param scenario: what to call it.
        :param pool_size: the czar's buffer pool.
        :param rows: the catalog's rows.
        :param chunks: its chunks.
        :param sides: ``qserv``, ``project``, ``ceiling``, in their order.
        :param lookups: whether to compare look-ups in the tables too.
        """
        with self.builder(pool_size) as (sandbox, builder):
            spec = self.catalog(sandbox, rows, chunks)
            files = ceiling.make_files(sandbox, spec) if "ceiling" in sides else []
            for number in range(self.repeat):
                # Back and forth, so that a machine that slows down or recovers favours no side.
                for side in sides if number % 2 == 0 else reversed(sides):
                    self._note(scenario, self._one(side, sandbox, spec, builder, files))
            for path in files:
                path.unlink()
            if lookups:
                tables = {
                    "qserv": qserv.TABLE,
                    "project": quote(INDEX_DATABASE) + "." + quote(f"{spec.database}__Object"),
                }
                self.results.lookups = compare(sandbox, spec, tables)
            self._drop(sandbox, spec)

    def growth(self, pool_size: str, sizes: tuple[int, ...], chunks: int, times: int) -> None:
        """
        Build indexes of several sizes in turn, this project's way alone: what a row costs must not depend on them.

        :param pool_size: the czar's buffer pool.
        :param sizes: rows of each.
        :param chunks: the chunks of each.
        :param times: how often.
        """
        with self.builder(pool_size) as (sandbox, builder):
            specs = [self.catalog(sandbox, rows, chunks) for rows in sizes]
            for number in range(times):
                for spec in specs if number % 2 == 0 else reversed(specs):
                    self._note(f"growth {spec.rows:,}", builder.build(spec.database, spec.rows, spec.chunks))
            for spec in specs:
                self._drop(sandbox, spec)

    def staging(self, pool_size: str, rows: int, chunks: int, times: int) -> None:
        """
        Build with the staged runs on the disk and on an object store, in turn.

        The store is moto's S3 in a process of its own on the same machine: it takes processor time from the build, and
        has no network's delay.

        :param pool_size: the czar's buffer pool.
        :param rows: the catalog's rows.
        :param chunks: its chunks.
        :param times: how often.
        """
        with s3_server() as url, self.builder(pool_size) as (sandbox, builder):
            spec = self.catalog(sandbox, rows, chunks)
            places = {"disk": builder.staging, "S3": url}
            for number in range(times):
                for name in places if number % 2 == 0 else reversed(places):
                    builder.staging = places[name]
                    self._note(f"staged on {name}", builder.build(spec.database, spec.rows, spec.chunks))
            medians = {name: self.results.side(f"staged on {name}", "project") for name in places}
            disk, store = medians["disk"], medians["S3"]
            if disk and store:
                ratio = store.seconds / disk.seconds
                self.results.other["staging"] = {"disk": disk.seconds, "S3": store.seconds, "S3 : disk": ratio}
                self.say(f"staged on S3 {store.seconds:.2f} s, on the disk {disk.seconds:.2f} s: {ratio:.2f}")
            self._drop(sandbox, spec)

    def _one(self, side: str, sandbox: Sandbox, spec: CatalogSpec, builder: Builder, files: list[Path]) -> Measured:
        if side == "qserv":
            return qserv.build(sandbox, spec.database, spec.rows)
        if side == "ceiling":
            return ceiling.load(sandbox, spec, files)
        return builder.build(spec.database, spec.rows, spec.chunks)

    def _note(self, scenario: str, measured: Measured) -> None:
        self.results.builds.setdefault(scenario, []).append(measured)
        steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in measured.steps.items())
        self.say(
            f"{scenario}: {measured.side} {measured.seconds:.2f} s, {measured.rate:,.0f} rows/s"
            + (f" ({steps})" if steps else "")
        )

    def _drop(self, sandbox: Sandbox, spec: CatalogSpec) -> None:
        run_sql(sandbox, *(f"DROP TABLE IF EXISTS {table}" for table in (qserv.TABLE, ceiling.TABLE, _index(spec))))

    def small(self, times: int) -> None:
        """
        Build a small index, again and again.

        :param times: how often.
        """
        with self.builder("128M") as (sandbox, builder):
            generate(sandbox, SMALL)
            for number in range(times + 3):
                for measured in (
                    qserv.build(sandbox, SMALL.database, SMALL.rows),
                    builder.build(SMALL.database, SMALL.rows, SMALL.chunks),
                ):
                    # The first ones warm the processes.
                    if number >= 3:
                        self.results.builds.setdefault("small", []).append(measured)
        for side in ("qserv", "project"):
            seconds = [m.seconds for m in self.results.builds["small"] if m.side == side]
            self.say(f"small: {side} {1000 * statistics.median(seconds):.1f} ms")

    def changed(self, pool_size: str, rows: int, chunks: int) -> None:
        """
        Build an index again after one chunk in a hundred has changed, with runs that were kept.

        :param pool_size: the czar's buffer pool.
        :param rows: the catalog's rows.
        :param chunks: its chunks.
        """
        with self.builder(pool_size) as (sandbox, builder):
            spec = self.catalog(sandbox, rows, chunks)
            kept = Folder.at(str(self.folder / "kept"))
            self._note("1 % changed", builder.build(spec.database, rows, chunks, kept=kept))
            self._touch(sandbox, spec)
            again = builder.build(spec.database, rows, chunks, kept=kept)
            again.side = "project again"
            self._note("1 % changed", again)
            kept.remove()
            self._drop(sandbox, spec)

    def _touch(self, sandbox: Sandbox, spec: CatalogSpec) -> None:
        placed = run_sql(
            sandbox,
            f"SELECT chunk, worker FROM qservReplica.replica WHERE `database` = '{spec.database}' "  # noqa: S608 - the benchmark's own names
            "AND chunk <> 1234567890 ORDER BY chunk",
        )
        for chunk, worker in placed[:: max(1, len(placed) // max(1, spec.chunks // 100))]:
            connection = sandbox.workers[worker].connect()
            with connection.cursor() as cursor:
                # Whole seconds tell a change: the one before must be over.
                cursor.execute(f"DO SLEEP(0.1); UPDATE `{spec.database}`.`Object_{chunk}` SET flags = flags + 1")  # noqa: S608 - the benchmark's own names
            connection.close()

    def throttled(self, pool_size: str, rows: int, chunks: int, seconds: float) -> None:
        """
        Read the live index, at rest and while a build runs at a quarter of its speed.

        :param pool_size: the czar's buffer pool.
        :param rows: the catalog's rows.
        :param chunks: its chunks.
        :param seconds: how long to read each time.
        """
        with self.builder(pool_size) as (sandbox, builder):
            spec = self.catalog(sandbox, rows, chunks)
            full = builder.build(spec.database, rows, chunks)
            keys = truth(spec).index_rows()[0]
            readers = Readers(sandbox, f"{spec.database}__Object", keys[:: max(1, len(keys) // 2000)])
            quarter, taken = int(full.rate / 4), list[float]()
            with contextlib.closing(readers), ThreadPoolExecutor(1) as thread:
                readers.measure(seconds)
                idle = readers.measure(seconds)
                build = thread.submit(builder.build, spec.database, rows, chunks, max_rows=quarter, connections=1)
                while not build.done():
                    taken += readers.measure(1.0)
                build.result()
            # Both or neither: they are compared with each other.
            both = [
                Latency.of(1, f"{side}, pool {pool_size}", found)
                for side, found in (("at rest", idle), (f"beside a build at {quarter:,} rows/s", taken))
            ]
            self.results.readers += both
            for latency in both:
                self.say(
                    f"readers {latency.side}: median {1e6 * latency.median:.0f} us, p99 {1e6 * latency.p99:.0f} us"
                )
            self._drop(sandbox, spec)

    def airflow(self, rows: int, chunks: int) -> None:
        """
        Build once through ``airflow dags test``.

        :param rows: the catalog's rows.
        :param chunks: its chunks.
        """
        stage = Stage(self.folder / "airflow", Path(__file__).parents[2] / "dags")
        (stage.state / "demo").mkdir(parents=True, exist_ok=True)
        with self.builder("128M") as (sandbox, builder):
            spec = self.catalog(sandbox, rows, chunks)
            stage.connections = sandbox.connections()
            stage.prepare()
            steps = builder.build(spec.database, rows, chunks)
            began = time.perf_counter()
            code, report = stage.run_dag(
                "build_director_index", {"database": spec.database, "director_table": "Object", "rebuild": 1}
            )
            wall = time.perf_counter() - began
            assert code == 0, report["detail"]
            # Parallel, so shorter than the same tasks one after the other: Airflow's share is no larger than this.
            core = steps.seconds
            mapped = sum(phase["tasks"] for phase in report["phases"] if phase["name"] in ("extract", "load"))
            self.results.other["airflow"] = {
                "rows": rows,
                "wall": wall,
                "core": core,
                "mapped": mapped,
                "share": wall - core,
                "allowed": 15 + 0.3 * mapped,
            }
            self.say(f"airflow dags test: {wall:.1f} s, of which {core:.1f} s in the steps; {mapped} mapped tasks")
            self._drop(sandbox, spec)


def _index(spec: CatalogSpec) -> str:
    return f"{quote(INDEX_DATABASE)}.{quote(f'{spec.database}__Object')}"
