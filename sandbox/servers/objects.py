"""An S3 server on this machine, for as long as the process lives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self

import boto3
from botocore.config import Config
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from sandbox.servers.datadir import check_allowed

_KEYS = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox-secret"}
_REGION = "us-east-1"


class ObjectStore:
    """
    moto's S3 over HTTP, on loopback and a free port; objects are in memory.

    Objects belong to the process, not to the server: two of these in one process see the same buckets.
    """

    def __enter__(self) -> Self:
        check_allowed()
        # It logs every request; thousands of lines help nobody.
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop()

    def client(self, **config: Any) -> Any:
        """
        Make a client.

        :param config: further settings of botocore's ``Config``.
        :returns: boto3's client of S3.
        """
        settled = Config(**{"max_pool_connections": 16, **config})
        return boto3.client("s3", endpoint_url=self.url, region_name=_REGION, config=settled, **_KEYS)

    def airflow_connection(self) -> dict[str, Any]:
        """
        Describe the server to Airflow.

        :returns: a connection of type ``aws``, to be written as JSON.
        """
        return {
            "conn_type": "aws",
            "login": _KEYS["aws_access_key_id"],
            "password": _KEYS["aws_secret_access_key"],
            "extra": {"endpoint_url": self.url, "region_name": _REGION},
        }

    def put(self, bucket: str, objects: Mapping[str, str | bytes]) -> None:
        """
        Store objects, past HTTP: that is sixty times faster.

        :param bucket: the bucket; made when it is not there.
        :param objects: contents by key.
        """
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        if bucket not in backend.buckets:
            self.client().create_bucket(Bucket=bucket)
        for key, body in objects.items():
            backend.put_object(bucket, key, body.encode() if isinstance(body, str) else body)
