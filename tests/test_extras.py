"""What works without the optional packages."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

_BLOCK = """
import sys

for name in {blocked!r}:
    sys.modules[name] = None
{work}
"""
OPTIONAL = ["psycopg", "pgvector", "lancedb", "wordllama", "semantic_text_splitter", "boto3", "moto", "rich"]


def run_without(blocked: list[str], work: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that cannot import some packages."""
    code = _BLOCK.format(blocked=blocked, work=work)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_first_job_needs_no_extra() -> None:
    done = run_without(OPTIONAL, "from airflow_reindex.dag_factory import director_index_dag; director_index_dag()")
    assert done.returncode == 0, done.stderr


def test_the_second_job_is_parsed_without_drivers() -> None:
    stores = [name for name in OPTIONAL if name != "semantic_text_splitter"]
    work = "from airflow_reindex.dag_factory import collection_reindex_dag; collection_reindex_dag()"
    done = run_without(stores, work)
    assert done.returncode == 0, done.stderr


def test_unknown_factory() -> None:
    import airflow_reindex.dag_factory

    with pytest.raises(AttributeError, match="no_such_dag"):
        _ = airflow_reindex.dag_factory.no_such_dag
