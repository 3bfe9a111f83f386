"""A server that speaks S3, on this machine, for one session of tests."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS_KEY: Final = "AKIATESTSONLY"
SECRET_KEY: Final = "not-a-secret-but-must-not-be-told"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectServer:
    """A server that keeps buckets in memory."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    @property
    def client(self) -> Any:
        """Another library than ours, to look at what is there."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    def make_bucket(self) -> str:
        """Make an empty bucket of a new name."""
        name = f"assets-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> list[str]:
        """List what is in a bucket."""
        found = self.client.list_objects_v2(Bucket=bucket)
        return [one["Key"] for one in found.get("Contents", [])]

    def unfinished(self, bucket: str) -> list[str]:
        """List uploads in parts that were neither completed nor given up."""
        found = self.client.list_multipart_uploads(Bucket=bucket)
        return [one["Key"] for one in found.get("Uploads", [])]


@contextmanager
def started_server() -> Iterator[ObjectServer]:
    """Start a server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield ObjectServer(endpoint=f"http://{host}:{port}")
    finally:
        server.stop()
