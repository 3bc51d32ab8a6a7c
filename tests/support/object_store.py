"""A server of this machine that speaks as S3 does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headwater.storage.remote import file_system


@contextmanager
def bucket() -> Iterator[Any]:
    """The file system of it, with an empty bucket of this name."""
    pytest.importorskip("s3fs")
    servers = pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = servers.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "NO_PROXY": "127.0.0.1",
        }.items():
            patch.setenv(name, value)
        files, _ = file_system("s3://bucket")
        files.mkdir("bucket")
        try:
            yield files
        finally:
            files.rm("bucket", recursive=True)
            server.stop()
