"""Prepares the servers of docker-compose.yaml: accounts, a catalog, a collection, Airflow's connections."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
import MySQLdb

from airflow_reindex.vectors.embedding.backends import open_model
from airflow_reindex.vectors.stores.pgvector import PgVectorStore, connector
from sandbox.catalog.catalog import CatalogSpec, generate
from sandbox.collection.collection_data import SOURCE_MODEL, index_documents, model_connections, word_model
from sandbox.collection.texts import documents
from sandbox.deployment import deployment_spec
from sandbox.servers import grants
from sandbox.servers.cluster import INDEX_DATABASE, REPLICATION_DATABASE, Sandbox
from sandbox.servers.datadir import write_private
from sandbox.servers.identifiers import quote

log = logging.getLogger("prepare")

INBOX = "/srv/infile"


@dataclass(frozen=True)
class Server:
    """One MariaDB server.

    :param host: its name in the containers' network
    :param port: its port
    :param password: the password of root
    """

    host: str
    port: int
    password: str

    def connect(self, local_infile: bool = False) -> Any:
        """Connect as root.

        :param local_infile: whether ``LOAD DATA LOCAL INFILE`` is wanted
        :returns: a new connection of mysqlclient
        """
        return MySQLdb.connect(
            host=self.host,
            port=self.port,
            user="root",
            password=self.password,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
            local_infile=int(local_infile),
        )


@dataclass(frozen=True)
class Servers:
    """What the catalog's generator needs of a sandbox.

    :param czar: the czar's server
    :param workers: the workers' servers by name
    :param root: a folder for temporary files
    """

    czar: Server
    workers: Mapping[str, Server]
    root: Path


def prepare(servers: Servers, password: str, spec: CatalogSpec) -> None:
    """Create the databases, the account and its grants, and, unless it is there, a catalog.

    :param servers: running servers
    :param password: of the account that Airflow uses
    :param spec: the catalog
    """
    with contextlib.closing(servers.czar.connect()) as connection:
        with connection.cursor() as cursor:
            for database in (INDEX_DATABASE, REPLICATION_DATABASE):
                cursor.execute(f"CREATE DATABASE IF NOT EXISTS {quote(database)}")
        grants.create_account(connection, password, grants.CZAR_GRANTS)
    there = True
    for server in servers.workers.values():
        with contextlib.closing(server.connect()) as connection:
            grants.create_account(connection, password, ())
            with connection.cursor() as cursor:
                there &= bool(cursor.execute("SHOW DATABASES LIKE %s", (spec.database,)))
    if not there:
        log.info("making the catalog %s: %s rows in %s chunks", spec.database, spec.rows, spec.chunks)
        generate(cast("Sandbox", servers), spec)


def prepare_vectors(password: str) -> dict[str, Any]:
    """Make a collection of texts, unless it is there.

    :param password: of the account that Airflow uses
    :returns: the Airflow connection to it
    """
    login: dict[str, Any] = {"host": "vectors", "port": 5432, "password": password}
    store = PgVectorStore(connector("", **login, user=grants.ACCOUNT, dbname="vectors"), label="vectors")
    try:
        if store.find(SOURCE_MODEL) is None:
            log.info("making the collection %s", SOURCE_MODEL)
            index_documents(store, open_model(word_model(SOURCE_MODEL), {}), documents(), "packages")
    finally:
        store.close()
    return {"conn_type": "postgres", "schema": "vectors", "login": grants.ACCOUNT, **login}


def connections(servers: Servers, password: str) -> dict[str, dict[str, Any]]:
    """Airflow's connections, as ``airflow connections import`` reads them.

    :param servers: the servers
    :param password: of the account that Airflow uses
    :returns: connection id to connection; it holds passwords
    """
    ids = {name: f"qserv_{name.replace('-', '_')}" for name in servers.workers}

    def login(server: Server, kind: str) -> dict[str, Any]:
        account = {"login": grants.ACCOUNT, "password": password}
        return {"conn_type": kind, "host": server.host, "port": server.port, **account}

    extra = {"workers": ids, "catalog": "replication", "staging_dir": INBOX, "server_staging_dir": INBOX}
    czar = {**login(servers.czar, "qserv"), "schema": INDEX_DATABASE, "extra": json.dumps(extra)}
    return {"qserv_default": czar, **{ids[name]: login(server, "mysql") for name, server in servers.workers.items()}}


def prepare_objects(password: str) -> dict[str, Any]:
    """Make the buckets, unless they are there.

    :param password: of the object store's account
    :returns: the Airflow connection to it
    """
    url, region = "http://object-store:9000", "us-east-1"
    client = boto3.client(
        "s3", endpoint_url=url, region_name=region, aws_access_key_id=grants.ACCOUNT, aws_secret_access_key=password
    )
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in {deployment_spec.STAGING_BUCKET, deployment_spec.LOG_BUCKET} - there:
        client.create_bucket(Bucket=bucket)
    extra = json.dumps({"endpoint_url": url, "region_name": region})
    return {"conn_type": "aws", "login": grants.ACCOUNT, "password": password, "extra": extra}


def main(folder: Path, passwords_file: Path) -> None:
    """Prepare what the environment names.

    :param folder: gets Airflow's connections and pools, a file each
    :param passwords_file: gets the password of Airflow's user ``admin``
    """
    # The containers have addresses that nobody knows beforehand; their network is closed.
    grants.ACCOUNT_HOSTS = ("%", "localhost")
    root = os.environ["MARIADB_ROOT_PASSWORD"]
    workers = {name: Server(name, 3306, root) for name in os.environ["WORKERS"].split()}
    servers = Servers(Server("czar", 3306, root), workers, Path("/tmp"))  # noqa: S108 - of the container
    password = os.environ["REINDEX_PASSWORD"]
    prepare(servers, password, CatalogSpec())
    found = connections(servers, password) | model_connections() | {"collections_default": prepare_vectors(password)}
    found[deployment_spec.STORE_CONN_ID] = prepare_objects(os.environ["OBJECT_STORE_PASSWORD"])
    write_private(folder / "connections.json", json.dumps(found))
    write_private(folder / "pools.json", json.dumps({name: dict(pool) for name, pool in deployment_spec.POOLS.items()}))
    write_private(passwords_file, json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
