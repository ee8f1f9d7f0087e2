"""Extra links on the tasks of a run: to its page, its report, its index or collection."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: Path prefix of the plugin's pages.
PREFIX = "/reindex"
#: Path prefix where EmbeddingStudio's clients expect its internal API.
INTERNAL = "/api/v1/internal"


def _base() -> str:
    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def root() -> str:
    """The path prefix of an API server that does not have its own host; empty otherwise."""
    return urlsplit(_base()).path


def run_path(page: str, dag_id: str, run_id: str) -> str:
    """
    Return a run's path below the API server's base URL.

    :param page: the first part of the path, such as ``page``.
    """
    return f"{PREFIX}/{page}/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


class RunLink(BaseOperatorLink):
    """Link from a task to a page of its run; :attr:`page` is the first part of its path."""

    page: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Return the URL on the API server."""
        return _base() + run_path(self.page, ti_key.dag_id, ti_key.run_id)


class PageLink(RunLink):
    """Link to the page of the run."""

    name, page = "Progress", "page"


class ReportLink(RunLink):
    """Link to the report of the run."""

    name, page = "Report", "report"


class IndexLink(RunLink):
    """Link to the index that the run builds."""

    name, page = "Index", "index"


class CollectionLink(RunLink):
    """Link to the collection that the run builds."""

    name, page = "Collection", "collection"
