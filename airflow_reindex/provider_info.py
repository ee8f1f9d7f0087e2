"""Provider metadata for Airflow: connection types with their forms, settings, links."""

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
    "worker_connections": _field(
        "Connections a worker",
        "How many connections the extract tasks of all builds may open to one worker at a time",
        type=["integer", "null"],
        minimum=1,
        default=4,
    ),
    "staging_dir": _field(
        "Shared folder (tasks)", "For local=0: the folder shared with the czar's MySQL server, as tasks see it"
    ),
    "server_staging_dir": _field("Shared folder (server)", "The same folder as the MySQL server sees it"),
    "data_dir": _field(
        "Data folder (tasks)",
        "The czar's data folder as tasks see it, if they do; its free space is checked before and while loading",
    ),
    "tls": _field(
        "TLS",
        'JSON object (ca, cert, key, mode) for the MySQL clients of all servers, such as {"ca": "/etc/ssl/qserv.pem"}',
        type=["object", "null"],
        format="json",
    ),
}


_EMBEDDING_MODEL_FIELDS = {
    "backend": _field(
        "Backend", "openai, kserve, wordllama, or a name of [reindex] embedding_backends", default="openai"
    ),
    "model": _field("Model", "What the backend calls the model; by default the connection's id"),
    "dimensions": _field("Dimensions", "Length of the vectors", type=["integer", "null"], minimum=1),
    "metric": _field("Metric", "How distances are measured", enum=["cosine", "euclid", "dot"], default="cosine"),
    "batch_size": _field("Batch size", "Texts a request", type=["integer", "null"], minimum=1, default=32),
    "in_flight": _field("In flight", "Requests at the same time", type=["integer", "null"], minimum=1, default=4),
    "timeout": _field("Time-out", "Seconds until a request has failed", type=["number", "null"], default=60),
    "document_prefix": _field("Document prefix", "Put before each text that is stored, such as 'passage: '"),
    "query_prefix": _field("Query prefix", "Put before each text that is searched for, such as 'query: '"),
    "collection_id": _field("Collection", "The collection of the model's vectors; by default the connection's id"),
    "price_per_million_tokens": _field(
        "Price per million tokens", "For estimates of costs", type=["number", "null"], minimum=0
    ),
    "options": _field(
        "Options",
        'Further settings of the backend, such as {"verify": "/etc/ssl/ca.pem"}',
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
        "Where runs keep their files until the index is published: a folder that all Airflow workers share, or a place "
        "on an object store. Empty: reindex-staging under AIRFLOW_HOME.",
        "",
        example="s3://aws_default@bucket/reindex",
    ),
    "allowed_conn_ids": _option(
        "Patterns of the connections that the params of a run may name, separated by commas.", "qserv_*,collections_*"
    ),
    "allowed_model_ids": _option(
        "Patterns of the connections of type embedding_model that the params of a run may name, separated by commas.",
        "*",
    ),
    "embedding_backends": _option(
        "Backends of embedding models besides the built-in ones: a JSON object of classes by name. They are called "
        "with a ModelSpec and offer what airflow_reindex.vectors.model.embedding_model.EmbeddingModel describes.",
        "",
        example='{"ours": "ourcompany.embedding.OurModel"}',
    ),
    "query_sets": _option(
        "Queries that both models are compared by before a switch: a JSON object of definitions by name, each with a "
        "path (a file of one query a line) or with conn_id and sql (whose first column is the query).",
        "",
        example='{"top": {"path": "/srv/queries.txt"}}',
    ),
    "on_switch": _option(
        "A function that is called with a Pointer when an alias has been switched or rolled back, for a registry "
        "elsewhere. It may be called more than once.",
        "",
        example="ourcompany.search.tell_registry",
    ),
    "least_recall": _option(
        "The smallest recall@10 of a new ANN index, against exact search, that is accepted.", "0.9", "float"
    ),
    "ef_search": _option("HNSW: how many candidates a search of the verification looks at.", "100", "integer"),
    "index_build_memory": _option(
        "maintenance_work_mem while PostgreSQL builds an ANN index; shared memory when it builds in parallel.", "1GB"
    ),
    "switch_lock_seconds": _option(
        "How long a switch waits for transactions that write to the source.", "30", "integer"
    ),
    "claim_timeout": _option(
        "After how many seconds without a heartbeat another run may take over an index under construction.",
        "300",
        "integer",
    ),
    "deployment": _option(
        "A name for this Airflow, equal on all its machines, where several Airflows build on the same servers. Empty: "
        "the API server's base URL.",
        "",
    ),
    "rows_per_task": _option("How many rows one mapped task should extract or load.", "5000000", "integer"),
    "memory_per_task": _option(
        "How much memory an extract or load task may take, Airflow's own part included, in MB; at least 320. "
        "With less than the default a load task can take somewhat more.",
        "512",
        "integer",
    ),
    "keep_runs": _option(
        "Whether the sorted runs of a finished build are kept (about 8 bytes a row), so that the next build of the "
        "index reads only the chunks that have changed since.",
        "False",
        "boolean",
    ),
    "require_tls": _option(
        "Whether connections in plain text are refused, to any server. Sockets of the same machine are none.",
        "False",
        "boolean",
    ),
    "director_pool": _option(
        "The pool of the tasks that build and audit director indexes. Make it before it is named here.", "default_pool"
    ),
    "director_queue": _option("The queue of these tasks. Empty: the executor's default.", ""),
    "collection_pool": _option("The pool of the tasks that move collections.", "default_pool"),
    "collection_queue": _option("The queue of these tasks. Empty: the executor's default.", ""),
    "director_dag_id": _option("The DAG that Qserv's service of the API server runs.", "build_director_index"),
    "collection_dag_id": _option("The DAG that the reindex tasks of the API server are runs of.", "reindex_collection"),
    "qserv_api_conn_id": _option(
        "A connection whose password is the auth_key of Qserv's clients; its extra may have an admin_auth_key. Without "
        "it they need the bearer token of an Airflow user.",
        "qserv_api",
    ),
    "qserv_api_local": _option("What local is in requests of Qserv's clients that do not say.", "0", "integer"),
    "qserv_api_flat_errors": _option(
        "Whether error_ext goes without the tables, as Qserv's own service has it since its version 21, and not as its "
        "documentation says.",
        "False",
        "boolean",
    ),
    "api_requests_per_minute": _option(
        "How many requests a client's address may send to this package's routes in a minute, to each process of the "
        "API server.",
        "1200",
        "integer",
    ),
    "api_body_bytes": _option("The largest body of a request to these routes.", "65536", "integer"),
    "loaders": _option(
        "Where contents come from: a JSON object of definitions by name, each with a kind (payload, s3 or sql) and its "
        "fields. The loader payload is always there.",
        "",
        example='{"files": {"kind": "s3", "aws_conn_id": "aws_default", "bucket": "documents"}}',
    ),
    "staging_retention_days": _option(
        "After how many days the files of a run that was never finished are removed.", "30", "integer"
    ),
}

_CONNECTION_TYPES = [
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
    },
    {
        "connection-type": "embedding_model",
        "hook-class-name": "airflow_reindex.hooks.embedding_model.EmbeddingModelHook",
        "hook-name": "Embedding model",
        "ui-field-behaviour": {
            "hidden-fields": ["login"],
            "relabeling": {"host": "Host or URL", "schema": "Scheme (http or https)", "password": "API key"},
            "placeholders": {"host": "https://api.openai.com/v1"},
        },
        "conn-fields": _EMBEDDING_MODEL_FIELDS,
    },
    {
        "connection-type": "lancedb",
        "hook-class-name": "airflow_reindex.hooks.collection.CollectionHook",
        "hook-name": "LanceDB",
        "ui-field-behaviour": {
            "hidden-fields": ["port", "schema"],
            "relabeling": {"host": "Folder or URL", "login": "Access key", "password": "Secret key"},
            "placeholders": {"host": "s3://bucket/vectors"},
        },
        "conn-fields": {
            "storage_options": _field(
                "Storage options",
                'What the object store\'s client needs, such as {"region": "eu-west-1"}',
                type=["object", "null"],
                format="json",
            )
        },
    },
]


def get_provider_info() -> dict[str, Any]:
    """Return the dict of Airflow's provider schema."""
    return {
        "package-name": "airflow-reindex",
        "name": "Reindex",
        "description": "Rebuilds indexes: Qserv director indexes from chunk tables on many MySQL workers, and vector "
        "collections with another embedding model.",
        "versions": [__version__],
        "connection-types": _CONNECTION_TYPES,
        "extra-links": [
            "airflow_reindex.operators.links.PageLink",
            "airflow_reindex.operators.links.ReportLink",
            "airflow_reindex.operators.links.IndexLink",
            "airflow_reindex.operators.links.CollectionLink",
        ],
        "config": {"reindex": {"description": "Settings of airflow-reindex.", "options": _OPTIONS}},
    }
