"""Objects below ``s3://bucket/prefix``, through Arrow's file system; keys and region from the environment."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from engine.errors import SourceReadError, UsageError
from engine.sources.listing import Entry
from engine.sources.names import from_plan, parts_inside, to_plan

SCHEME = "s3://"
_TIMEOUT_S = 15
_ATTEMPTS = 4
_BUFFER = 256 << 10  # a read is a request


class S3Store:
    """A prefix of a bucket. The endpoint is AWS_ENDPOINT_URL where that is set, as for any other tool."""

    def __init__(self, source: str) -> None:
        """Ask nothing yet.

        Raises:
            UsageError: there is no bucket in the address, or something that belongs into the environment.
        """
        root = source.removeprefix(SCHEME).strip("/")
        if not root or "@" in root.split("/")[0] or "?" in root:
            raise UsageError(
                "an object store is s3://bucket/prefix; keys come from AWS_ACCESS_KEY_ID and its like"
            )
        self._root = root
        self._file_system: Any = None
        self.passed_over: Counter[str] = Counter()

    def walk(self) -> Iterator[Entry]:
        """Every object below the prefix, listed flat: a key with ``//`` in it would be its own level.

        Arrow keeps the listing as a whole, about 650 bytes an object, until it is done.

        Raises:
            OSError: the store cannot be reached, or refuses.
        """
        from pyarrow.fs import FileSelector, FileType

        for info in self._open_system().get_file_info(FileSelector(self._root, recursive=True)):
            if info.type == FileType.File:
                yield Entry(to_plan(info.path[len(self._root) + 1 :]), info.size)

    def open(self, path: str) -> tuple[BinaryIO, int, object]:
        """Open an object.

        Raises:
            OSError: the store failed.
            SourceReadError: the path is none of an object here.
        """
        key = from_plan(path)
        parts_inside(key)
        if "//" in f"/{key}":
            raise SourceReadError("a key with // in it cannot be read: copy the object to another key")
        stream: Any = self._open_system().open_input_file(f"{self._root}/{key}")
        size = stream.size()
        return cast("BinaryIO", io.BufferedReader(stream, _BUFFER)), size, (size, stream.metadata())

    def _open_system(self) -> Any:
        if self._file_system is None:
            from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            self._file_system = S3FileSystem(
                endpoint_override=os.environ.get("AWS_ENDPOINT_URL") or None,
                region=region,
                connect_timeout=_TIMEOUT_S,
                request_timeout=_TIMEOUT_S,
                retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            )
        return self._file_system
