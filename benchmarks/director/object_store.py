"""An S3 server in a process of its own, so that its work is not the build's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.exceptions import BotoCoreError

_ACCOUNT = {"login": "benchmark", "password": "benchmark-secret"}
_WAIT_SECONDS = 30.0


@contextmanager
def s3_server() -> Iterator[str]:
    """
    Run moto's S3 server, and tell Airflow of it.

    :yields: the URL of a folder in it, as ``[reindex] staging_url`` takes it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:  # noqa: S603
        try:
            _make_bucket(url)
            extra = {"endpoint_url": url, "region_name": "us-east-1"}
            os.environ["AIRFLOW_CONN_BENCHMARK"] = json.dumps({"conn_type": "aws", **_ACCOUNT, "extra": extra})
            yield "s3://benchmark@staging/runs"
        finally:
            os.environ.pop("AIRFLOW_CONN_BENCHMARK", None)
            server.kill()


def _make_bucket(url: str) -> None:
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), _ACCOUNT.values(), strict=True))
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            client.create_bucket(Bucket="staging")
        except BotoCoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
