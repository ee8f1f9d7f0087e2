"""Extra links on the tasks of a run: to its report, and to the index as an asset."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

#: Where the plugin serves its pages.
PREFIX = "/reindex"


def _base() -> str:
    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


class ReportLink(BaseOperatorLink):
    """Leads from a task to the report of its run."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """
        Form the URL.

        :param operator: the task's operator.
        :param ti_key: names the DAG and the run.
        :returns: the report's URL on the API server.
        """
        return f"{_base()}{PREFIX}/report/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"


class IndexLink(BaseOperatorLink):
    """Leads from a task to the index among Airflow's assets."""

    name = "Index"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """
        Form the URL.

        :param operator: the task's operator; after it ran it knows its index.
        :param ti_key: names the DAG and the run.
        :returns: the URL of Airflow's list of assets, narrowed to the index.
        """
        index = getattr(operator, "index_name", "")
        return f"{_base()}/assets" + (f"?{urlencode({'name_pattern': index})}" if index else "")
