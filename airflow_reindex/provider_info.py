"""What Airflow asks of a provider: connection types with their forms, settings, links."""

from __future__ import annotations

from typing import Any

from airflow_reindex import __version__

_TEXT = {"type": ["string", "null"]}


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {**_TEXT, **schema}}


_QSERV_FIELDS = {
    "workers": _field(
        "Workers",
        'The name of each worker and the id of its MySQL connection, such as {"worker-1": "qserv_worker_1"}',
        type=["object", "null"],
        format="json",
    ),
    "catalog": _field(
        "Catalog",
        "Where the placement of chunks is read from: Qserv's replication tables, or a scan of each worker's tables",
        enum=["replication", "scan"],
        default="replication",
    ),
    "replication_schema": _field(
        "Replication database", "Qserv's replication tables on the czar's server", default="qservReplica"
    ),
    "work_database": _field(
        "Working database",
        "Where builds keep claims and tables under construction, on the czar's server",
        default="airflow_reindex",
    ),
    "staging_dir": _field(
        "Shared folder (tasks)", "For local=0: the folder shared with the czar's MySQL server, as tasks see it"
    ),
    "server_staging_dir": _field("Shared folder (server)", "The same folder as the MySQL server sees it"),
    "tls": _field(
        "TLS",
        'JSON object (ca, cert, key, mode) for the MySQL clients of all servers, such as {"ca": "/etc/ssl/qserv.pem"}',
        type=["object", "null"],
        format="json",
    ),
}


def _option(description: str, default: str, kind: str = "string", example: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }


_OPTIONS = {
    "staging_url": _option(
        "Where runs keep their files until the index is published: a folder that all Airflow workers share. Empty: "
        "reindex-staging under AIRFLOW_HOME.",
        "",
        example="file:///srv/airflow/reindex",
    ),
    "allowed_conn_ids": _option(
        "Patterns of the connections that the params of a run may name, separated by commas.", "qserv_*,collections_*"
    ),
    "claim_timeout": _option(
        "After how many seconds without a sign of life another run may take over an index under construction.",
        "300",
        "integer",
    ),
    "deployment": _option(
        "A name for this Airflow, equal on all its machines, where several Airflows build on the same servers. Empty: "
        "the API server's base URL.",
        "",
    ),
    "rows_per_task": _option("How many rows one mapped task should extract or load.", "5000000", "integer"),
    "rows_in_memory": _option(
        "How many rows an extract task holds in memory before it writes a sorted run; about 50 bytes each.",
        "4000000",
        "integer",
    ),
    "staging_retention_days": _option(
        "After how many days the files of a run that was never finished are removed.", "30", "integer"
    ),
}


def get_provider_info() -> dict[str, Any]:
    """
    Describe the provider to Airflow.

    :returns: the dict that Airflow's provider schema asks for.
    """
    return {
        "package-name": "airflow-reindex",
        "name": "Reindex",
        "description": "Rebuilds indexes: Qserv director indexes from chunk tables on many MySQL workers.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": "qserv",
                "hook-class-name": "airflow_reindex.hooks.qserv.QservHook",
                "hook-name": "Qserv",
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {"schema": "Index database", "host": "Czar's MySQL host"},
                    "placeholders": {"schema": "qservMeta", "port": "3306"},
                },
                "conn-fields": _QSERV_FIELDS,
            }
        ],
        "extra-links": [
            "airflow_reindex.links.ReportLink",
            "airflow_reindex.links.IndexLink",
        ],
        "config": {"reindex": {"description": "Settings of airflow-reindex.", "options": _OPTIONS}},
    }
