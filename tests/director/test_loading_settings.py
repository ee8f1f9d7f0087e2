"""How files reach the server: settings that do not fit are refused before anything is touched."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_reindex.core.failures import RequestError, TransientError
from airflow_reindex.director.mysql.bulk_load import write_text
from airflow_reindex.director.publish import proof
from airflow_reindex.director.publish.verification import verify
from sandbox.catalog.catalog import truth
from sandbox.fixtures import CatalogFactory
from sandbox.servers import grants
from sandbox.servers.cluster import Sandbox
from tests.director.failing import SPEC, assert_old_index, make_old_index
from tests.support.build import Factory, assert_same, run_sql
from tests.support.samples import rows_of

pytestmark = pytest.mark.usefixtures("clean")


class TestLoadSettings:
    def test_local(self, catalog: CatalogFactory, build: Factory) -> None:
        made = catalog(SPEC)
        run = build(made.spec.database, rebuild=1, local=1)
        # Nothing is shared with the server.
        run.servers = replace(run.servers, staging_dir=None, server_staging_dir=None)
        assert run.run().rows == made.rows
        assert_same(run.index(), truth(made.spec).index_rows())

    def test_local_infile_is_off(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        with set_global(sandbox, "local_infile", "0", "1"):
            text = self.refusal(catalog, build, local=1)
        assert "set local_infile=1 on the czar's server, or use local=0" in text

    def test_file_privilege_is_missing(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        file_grant = tuple(grant for grant in grants.CZAR_GRANTS if grant.privileges == ("FILE",))
        assert len(file_grant) == 1
        with contextlib.closing(sandbox.czar.connect()) as root:
            grants.take(root, file_grant)
            try:
                text = self.refusal(catalog, build)
            finally:
                grants.give(root, file_grant)
        assert "the FILE privilege" in text
        assert "local=1" in text

    def test_secure_file_priv_is_another_folder(self, catalog: CatalogFactory, build: Factory, tmp_path: Path) -> None:
        text = self.refusal(catalog, build, staging_dir=str(tmp_path), server_staging_dir=str(tmp_path))
        assert "secure_file_priv does not allow 'server_staging_dir'" in text
        assert "local=1" in text
        assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tsv"] == []

    def test_server_sees_another_folder(self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox) -> None:
        elsewhere = sandbox.czar.infile_dir / "elsewhere"
        elsewhere.mkdir()
        try:
            text = self.refusal(catalog, build, server_staging_dir=str(elsewhere))
        finally:
            elsewhere.rmdir()
        assert "must be one folder, readable by the server" in text
        assert "local=1" in text

    def test_staging_dir_is_not_mounted(self, catalog: CatalogFactory, build: Factory, tmp_path: Path) -> None:
        assert "is not a folder on this machine" in self.refusal(catalog, build, staging_dir=str(tmp_path / "none"))

    def test_no_shared_folder(self, catalog: CatalogFactory, build: Factory) -> None:
        text = self.refusal(catalog, build, staging_dir=None)
        assert "set 'staging_dir'" in text
        assert "local=1" in text

    @staticmethod
    def refusal(catalog: CatalogFactory, build: Factory, local: int = 0, **changes: Any) -> str:
        """Why a plan is refused; nothing is touched."""
        run = build(catalog(SPEC).spec.database, rebuild=1, local=local)
        run.servers = replace(run.servers, **changes)
        make_old_index(run)
        with pytest.raises(RequestError) as caught:
            run.plan()
        assert run.working_tables() == []
        assert list(run.sandbox.czar.infile_dir.glob("reindex-*")) == []
        assert_old_index(run)
        return str(caught.value)

    def test_server_that_soon_hangs_up_on_idle_clients(
        self, catalog: CatalogFactory, build: Factory, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = build(catalog(SPEC).spec.database, rebuild=1)

        def slow_verify(*args: Any) -> int:
            time.sleep(1.5)  # the condition under test is the time itself
            return verify(*args)

        monkeypatch.setattr(proof, "verify", slow_verify)
        with set_global(sandbox, "wait_timeout", "1", "28800"):
            run.run()
        assert_same(run.index(), truth(SPEC).index_rows())


@contextlib.contextmanager
def set_global(sandbox: Sandbox, name: str, value: str, back: str) -> Iterator[None]:
    """Change a setting of the czar's server for a while."""
    run_sql(sandbox.czar, f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        run_sql(sandbox.czar, f"SET GLOBAL {name} = {back}")


def test_file_that_another_run_has_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "swept.tsv", os.chmod

    def chmod(*args: Any) -> None:
        path.unlink()
        real(*args)

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(TransientError, match="another run has taken over"):
        write_text(rows_of([1], [1], [1]), path)
