"""S3, Google Cloud Storage and Azure as the place an image is written to, through obstore.

This is for the machine of the analyst: unlike its neighbours it needs a package, which is imported when asked
for.  The image goes up in parts, and appears under its name when the last one has arrived.  Credentials come
from where the tools of these clouds take them, above all the environment.
"""

import contextlib
import os
import re
from datetime import timedelta
from typing import Any, Optional, Union

from memdump.errors import MemdumpError, UsageError
from memdump.machine.destination import Destination, Options, shown
from memdump.machine.output import Content, each

_PART = 16 << 20
"""Bytes of a part, unless there would be too many."""
_PARTS = 9000  # S3 takes 10,000
_AT_ONCE = 3
"""Parts on their way; each is held in memory."""
_HASTY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AZURE_STORAGE_ENDPOINT", "AZURITE_BLOB_STORAGE_URL")
_QUERY = re.compile(r"\?[^\s\"']*")
_LONGEST = 300
"""Characters of the library's words; it tells of every retry, one inside the other."""


class ObjectDestination(Destination):
    """An object, which is there when it is whole: of a run that is stopped nothing is kept."""

    def __init__(self, url: str, options: Options) -> None:
        """Begin the object ``s3://BUCKET/KEY``; with a key that ends in ``/`` it gets the image's own name.

        Raises `UsageError` where it exists or the package is missing, `MemdumpError` where the store fails.
        """
        bucket, self._key = parse(url, options.name)
        self.place = f"{bucket}/{self._key}"
        self.file = self._key.rpartition("/")[2]
        self.partial = f"nothing is kept at {self.place}"
        self._sent = 0
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            scheme = bucket.partition(":")[0]
            raise UsageError(f"{scheme}: needs a package here: pip install 'memdump[cloud]'") from None
        self._obstore: Any = obstore
        # Who names an endpoint without TLS means it; the library has a variable for it for each store, too.
        plain: Any = {}
        if any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS):
            plain = {"client_options": {"allow_http": True}}
        try:
            self._store: Any = from_url(bucket, **plain)
            # To ask once more for minutes is for an upload that has begun.
            hasty: Any = from_url(bucket, retry_config=_HASTY, **plain)
        except Exception as error:  # of the library's making
            raise UsageError(f"{self.place}: {_words(error)}") from None
        for key in (self._key, *(self._key + suffix for suffix in options.attachments)):
            if self._size(hasty, key) is not None:
                raise UsageError(
                    f"{bucket}/{key}: exists already and is never written over; choose another name"
                )
        part = max(_PART, -(-options.size // _PARTS))
        self._writer: Any = obstore.open_writer(
            self._store, self._key, buffer_size=part, max_concurrency=_AT_ONCE
        )

    def _size(self, store: Any, key: str) -> Optional[int]:
        """Ask for the size of an object; None where there is none, or where it is not permitted to ask."""
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        try:
            return int(self._obstore.head(store, key)["size"])
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
            return None
        except Exception as error:  # of the library's making
            raise MemdumpError(f"{self.place}: {_words(error)}") from None

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Take all of ``data``; raises `MemdumpError` where the store fails."""
        try:
            self._writer.write(bytes(data))  # which holds on to it
        except Exception as error:  # of the library's making
            raise MemdumpError(f"{self.place}: {_words(error)}; {self.partial}") from None
        self._sent += len(data)

    def commit(self) -> None:
        """Have the store put the parts together, and see that it has all of them."""
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except Exception as error:  # of the library's making
            raise MemdumpError(f"{self.place}: {_words(error)}; {self.partial}") from None
        size = self._size(self._store, self._key)
        if size is not None and size != self._sent:
            raise MemdumpError(
                f"{self.place}: has {size} bytes where {self._sent} were sent; do not trust it"
            )

    def abandon(self) -> None:
        """Have the store forget the parts."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.__exit__(MemdumpError, None, None)

    def attach(self, suffix: str, data: Content) -> None:
        """Write a second object."""
        try:
            self._obstore.put(self._store, self._key + suffix, b"".join(each(data)))
        except Exception as error:  # of the library's making
            raise MemdumpError(f"{self.place}{suffix}: {_words(error)}") from None

    def close(self) -> None:
        """Do nothing: the object is ended."""


def parse(url: str, name: str) -> "tuple[str, str]":
    """Give the bucket and the key; raises `UsageError`."""
    found = re.fullmatch(r"(\w+://[^/?#@]+)(?:/([^?#]*))?", url)
    if not found:
        raise UsageError(f"{shown(url)}: is no object; write s3://BUCKET/KEY")
    bucket, key = found.group(1), found.group(2) or ""
    return bucket, key + name if not key or key.endswith("/") else key


def _words(error: Exception) -> str:
    """Say what the library says, in one line, and without the signatures of its requests."""
    words = _QUERY.sub("", " ".join(str(error).split("\n\nDebug source")[0].split()))
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
