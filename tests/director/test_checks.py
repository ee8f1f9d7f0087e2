"""Privileges, as SHOW GRANTS writes them, and the room that a build needs."""

from __future__ import annotations

import pytest

from airflow_reindex.core.failures import RequestError
from airflow_reindex.core.staging import Folder
from airflow_reindex.director.model.runs import STAGED_BYTES
from airflow_reindex.director.mysql.disk_space import INDEX_BYTES
from airflow_reindex.director.planning import checks
from airflow_reindex.director.planning.checks import granted

USAGE = "GRANT USAGE ON *.* TO `reindex`@`%` IDENTIFIED BY PASSWORD '*6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9'"
TO = " TO `reindex`@`%`"


@pytest.mark.parametrize(
    ("lines", "database", "expected"),
    [
        ([USAGE], "qservMeta", {"USAGE"}),
        ([USAGE, "GRANT SELECT, INSERT ON `qservMeta`.*" + TO], "qservMeta", {"USAGE", "SELECT", "INSERT"}),
        (["GRANT SELECT ON `qservMeta`.*" + TO], "qservMet", set()),
        (["GRANT SELECT ON `qservMeta`.*" + TO], "qservMetaX", set()),
        (["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"], "x", {"ALL PRIVILEGES"}),
        (["GRANT ALL PRIVILEGES ON `airflow\\_reindex`.*" + TO], "airflow_reindex", {"ALL PRIVILEGES"}),
        (["GRANT ALL PRIVILEGES ON `airflow\\_reindex`.*" + TO], "airflowXreindex", set()),
        (["GRANT DROP ON `airflow_reindex`.*" + TO], "airflow_reindex", {"DROP"}),
        (["GRANT DROP ON `airflow_reindex`.*" + TO], "airflowXreindex", {"DROP"}),
        (["GRANT DROP ON `air%`.*" + TO], "airflow_reindex", {"DROP"}),
        (["GRANT DROP ON `air\\%`.*" + TO], "airflow_reindex", set()),
        (["GRANT DROP ON `air\\%`.*" + TO], "air%", {"DROP"}),
        (["GRANT DROP ON `%`.*" + TO], "any", {"DROP"}),
        (["GRANT DROP ON `a.b`.*" + TO], "a.b", {"DROP"}),
        (["GRANT DROP ON `a.b`.*" + TO], "aXb", set()),
        (["GRANT DROP ON `a``b`.*" + TO], "a`b", {"DROP"}),
        (["GRANT DROP ON `a```.*" + TO], "a`", {"DROP"}),
        (["GRANT SELECT ON `qservMeta`.`one_table`" + TO], "qservMeta", set()),
        (["GRANT SELECT (`a`, `b`) ON `qservMeta`.`t`" + TO], "qservMeta", set()),
        (["GRANT EXECUTE ON PROCEDURE `qservMeta`.`p`" + TO], "qservMeta", set()),
        (["GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION", USAGE], "x", {"USAGE"}),
        (["GRANT SELECT ON `a`.*" + TO, "GRANT DROP ON `a`.*" + TO], "a", {"SELECT", "DROP"}),
        (["GRANT CREATE TEMPORARY TABLES ON `a`.*" + TO], "a", {"CREATE TEMPORARY TABLES"}),
        ([], "a", set()),
    ],
)
def test_granted(lines: list[str], database: str, expected: set[str]) -> None:
    assert granted(lines, database) == expected


@pytest.mark.parametrize(
    "line",
    [
        "GRANT `loader` TO `reindex`@`%`",
        "GRANT `loader`@`%` TO `reindex`@`%`",
        "GRANT `loader` TO `reindex`@`%` WITH ADMIN OPTION",
        "SET DEFAULT ROLE `loader` FOR `reindex`@`%`",
    ],
)
def test_roles_leave_it_open(line: str) -> None:
    assert granted([USAGE, line], "qservMeta") is None


def test_a_partial_revoke_is_not_granted() -> None:
    lines = ["GRANT SELECT, INSERT ON *.*" + TO, "REVOKE INSERT ON `qservMeta`.* FROM `reindex`@`%`"]
    assert granted(lines, "qservMeta") in (None, {"SELECT"})
    assert granted(lines, "other") in (None, {"SELECT", "INSERT"})


def test_estimate(folder: Folder) -> None:
    figures = checks.estimate(1_000_000, 7, folder)
    assert figures["rows"] == 1_000_000
    assert figures["extract_tasks"] == 7
    assert figures["staging_bytes"] == 1_000_000 * STAGED_BYTES
    assert figures["index_bytes"] == 1_000_000 * INDEX_BYTES
    assert str(figures["time"]).startswith("about 0.9 s")


@pytest.mark.parametrize(("free", "fits"), [(1199, False), (1200, True), (None, True)])
def test_a_small_disk_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch, free: int | None, fits: bool) -> None:
    monkeypatch.setattr(Folder, "free_bytes", lambda _: free)
    if fits:
        assert checks.estimate(100, 1, folder)["staging_bytes_free"] == free
        return
    with pytest.raises(RequestError, match="make room"):
        checks.estimate(100, 1, folder)
