"""Extra links on the tasks of a run: to its page, its report, and what is known of its index."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: Where the plugin serves its pages.
PREFIX = "/reindex"
#: Where EmbeddingStudio's clients look for its internal API.
INTERNAL = "/api/v1/internal"


def _base() -> str:
    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def root() -> str:
    """What stands before every path of the API server where it does not have a host of its own; else nothing."""
    return urlsplit(_base()).path


def run_path(page: str, dag_id: str, run_id: str) -> str:
    """
    The path of something of a run, below the API server's base URL.

    :param page: the first part of its path, such as ``page``.
    :param dag_id: the run's DAG.
    :param run_id: its id.
    """
    return f"{PREFIX}/{page}/{quote(dag_id, safe='')}/{quote(run_id, safe='')}"


class RunLink(BaseOperatorLink):
    """Leads from a task to something of its run; :attr:`page` is the first part of its path."""

    page: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """
        Form the URL.

        :param operator: the task's operator.
        :param ti_key: names the DAG and the run.
        :returns: the URL on the API server.
        """
        return _base() + run_path(self.page, ti_key.dag_id, ti_key.run_id)


class PageLink(RunLink):
    """Leads from a task to the page that shows its run."""

    name, page = "Progress", "page"


class ReportLink(RunLink):
    """Leads from a task to the report of its run."""

    name, page = "Report", "report"


class IndexLink(RunLink):
    """Leads from a task to the index that its run builds."""

    name, page = "Index", "index"


class CollectionLink(RunLink):
    """Leads from a task to the collection that its run builds."""

    name, page = "Collection", "collection"
