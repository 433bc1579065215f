"""TLS for the way of an image from one machine to another.

Nothing is sent to a peer that is not verified, and there is no option to do without.
"""

import re
import socket
import ssl
from pathlib import Path
from typing import Callable, Optional, TypeVar

from memdump.errors import MemdumpError, UsageError
from memdump.machine import wire

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# A certificate that was given as trusted ends the chain, whoever issued it (X509_V_FLAG_PARTIAL_CHAIN; Python
# names it from 3.10 on).
_PARTIAL_CHAIN = 0x80000

_Found = TypeVar("_Found")


class Identity:
    """The files that say whom we trust and who we are (PEM)."""

    def __init__(self, ca: Optional[str], cert: Optional[str], key: Optional[str]) -> None:
        if key and not cert:
            raise UsageError("a TLS key needs its certificate: add --tls-cert FILE")
        self.ca = ca
        self.cert = cert
        self.key = key

    def client(self, check_hostname: bool = True) -> ssl.SSLContext:
        """Make what a connection out is verified by; raises `UsageError` where a file does not do."""
        context = ssl.create_default_context() if self.ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = check_hostname
        return self._load(context)

    def server(self) -> ssl.SSLContext:
        """Make what a connection in is taken with; it needs our certificate.  Raises as `client` does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context)

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            context.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
            _from(self.ca, lambda: context.load_verify_locations(self.ca))
        if self.cert is not None:
            files = self.cert if self.key is None else f"{self.cert}, {self.key}"
            text = _from(self.cert, Path(self.cert).read_bytes)
            if self.key is None and b"BEGIN CERTIFICATE" in text and b"PRIVATE KEY" not in text:
                raise UsageError(f"{self.cert}: holds no private key; add --tls-key FILE")
            _from(files, lambda: context.load_cert_chain(str(self.cert), self.key))
        return context

    def connect(self, host: str, connect: Callable[[], socket.socket], peer: str) -> ssl.SSLSocket:
        """Connect and shake hands; raises `MemdumpError` where the peer is not whom we trust.

        The peer must prove its name, unless it shows the one certificate that ``ca`` holds: then that says
        enough.  OpenSSL checks names only during the handshake, so a second one follows where it is another.
        """
        pinned = self._pinned()
        if pinned is not None:
            found = _shake(self.client(check_hostname=False), connect(), host, peer)
            if found.getpeercert(binary_form=True) == pinned:
                return found
            found.close()
        return _shake(self.client(), connect(), host, peer)

    def _pinned(self) -> Optional[bytes]:
        """Give the certificate in the file ``ca`` if it is the only one: it may be the peer's own."""
        if self.ca is None:
            return None
        path = Path(self.ca)
        found = _PEM.findall(_from(self.ca, lambda: path.read_text("ascii", "replace")))
        return ssl.PEM_cert_to_DER_cert(found[0]) if len(found) == 1 else None


def _shake(context: ssl.SSLContext, connection: socket.socket, host: str, peer: str) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except (OSError, ValueError) as error:
        connection.close()
        why = wire.reason(error) if isinstance(error, OSError) else str(error)
        raise MemdumpError(f"{peer}: {why}; nothing was sent") from None


def _from(files: str, load: Callable[[], _Found]) -> _Found:
    try:
        return load()
    except ssl.SSLError as error:
        why = (
            "the key does not belong to the certificate" if "MISMATCH" in str(error) else "is not in PEM form"
        )
        raise UsageError(f"{files}: {why}") from None
    except OSError as error:
        raise UsageError(f"{files}: {error.strerror}") from None
