"""What a deployment of several machines consists of: the same in `docker-compose.yaml` and on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Component to the arguments of `airflow`. Nobody serves log files: they lie in the object store.
COMMANDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "api-server": ("api-server",),
        "scheduler": ("scheduler", "--skip-serve-logs"),
        "dag-processor": ("dag-processor",),
        "triggerer": ("triggerer", "--skip-serve-logs"),
        "airflow-worker-1": ("celery", "worker", "--skip-serve-logs"),
        "airflow-worker-2": ("celery", "worker", "--skip-serve-logs"),
    }
)

#: Buckets of the object store.
STAGING_BUCKET, LOG_BUCKET = "reindex", "airflow-logs"
#: The Airflow connection to the object store.
STORE_CONN_ID = "object_store"

#: What has one value everywhere.
SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": "2",
        # Redis gives a task to another worker when it has not ended in this time: longer than any takes.
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "604800",
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "true",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{LOG_BUCKET}/logs",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": STORE_CONN_ID,
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "true",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
        "AIRFLOW__REINDEX__STAGING_URL": f"s3://{STORE_CONN_ID}@{STAGING_BUCKET}/staging",
        "AIRFLOW__REINDEX__DIRECTOR_POOL": "qserv",
        "AIRFLOW__REINDEX__COLLECTION_POOL": "collections",
    }
)

#: What each deployment has values of its own for: addresses, passwords, keys.
OWN_SETTINGS = frozenset(
    {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
        "AIRFLOW__API__SECRET_KEY",
        "AIRFLOW__API__BASE_URL",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__CELERY__BROKER_URL",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    }
)

#: As `airflow pools import` reads them: how many tasks of each job work at a time, whatever the number of runs.
POOLS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "qserv": {
            "slots": 8,
            "description": "Tasks that read from or load into Qserv's servers.",
            "include_deferred": False,
        },
        "collections": {
            "slots": 4,
            "description": "Tasks that read, embed or write collections.",
            "include_deferred": False,
        },
    }
)
