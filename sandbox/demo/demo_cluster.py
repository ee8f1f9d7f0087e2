"""A deployment to look at: Airflow with Celery workers, a catalog and a collection."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path

from rich.console import Console

from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.catalog.catalog import CatalogSpec, generate
from sandbox.collection.collection_data import SOURCE_MODEL, index_documents, word_model
from sandbox.collection.texts import documents
from sandbox.deployment.deployment import VECTORS, Deployment
from sandbox.servers.datadir import write_private


def run(state: Path, dags: Path) -> None:
    """Run it until it is interrupted.

    :param state: a folder of everything that is made; what an earlier call has left is removed
    :param dags: the folder with the project's DAGs
    :raises SandboxError: a part does not come up
    """
    console = Console(highlight=False)
    root, stop = state / "cluster", threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    shutil.rmtree(root, ignore_errors=True)
    console.print("starting MariaDB, PostgreSQL, Redis, S3, and Airflow: half a minute")
    try:
        with Deployment(root, dags) as deployment:
            _fill(deployment)
            password = root / "password"
            write_private(password, deployment.passwords["admin"] + "\n")
            console.print(f"Airflow: {deployment.url}   user admin, password in {password}", soft_wrap=True)
            console.print("The workers and MySQL's server share no folder: give builds local=1. For example:")
            for dag, conf in (
                ("build_director_index", '{"database": "sky", "director_table": "Object", "local": 1, "rebuild": 1}'),
                (
                    "reindex_collection",
                    '{"source_embedding_model_id": "words_64", "dest_embedding_model_id": "words_256", '
                    '"deploy_as_blue": true, "alias": "packages"}',
                ),
                ("rebuild_catalog", '{"database": "sky", "build": {"local": 1}}'),
            ):
                console.print(f"  {dag}  {conf}", markup=False, soft_wrap=True)
            console.print(f"What the components say is in {root}/*/*.log. Ctrl-C stops all.", soft_wrap=True)
            stop.wait()
            console.print("stopping")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _fill(deployment: Deployment) -> None:
    generate(deployment.qserv, CatalogSpec(rows=200_000, chunks=200))
    store = PgVectorStore(connector(deployment.postgres.connection_uri(VECTORS)), label=VECTORS)
    try:
        index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(), "packages")
    finally:
        store.close()
