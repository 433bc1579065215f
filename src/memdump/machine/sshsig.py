"""Signatures that OpenSSH makes and checks, in its ``sshsig`` form (``PROTOCOL.sshsig`` of its source).

``ssh-keygen -Y`` of the system does the work: keys in files, in an agent or on a token all serve, and it asks
for passphrases itself.  Data and signatures reach it through pipes, so that nothing touches a disk.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.machine.output import Content, each

SUFFIX = ".json.sig"
"""Behind the name of an image, for the signature of its manifest."""
NAMESPACE = "memdump"
"""What the signature is for: one that was made for anything else does not serve."""
LARGEST = 32 << 10
"""Bytes of a signature: one of 16384 bits of RSA takes 8000.  A pipe takes twice as much at once."""

_PROGRAM = "ssh-keygen"
_PIPES = "/dev/fd/"
_GOOD = re.compile(rf'Good "{NAMESPACE}" signature (?:for .* )?with (\S+ key \S+)')
_PUBLIC = re.compile(r"\s*((?:ssh-|ecdsa-|sk-)\S+[ \t]+[A-Za-z0-9+/]+=*)(?:\s|$)")


class BadSignature(MemdumpError):
    """The signature is not over these data, or by nobody who may sign them."""


class Signer(NamedTuple):
    """Who signed."""

    key: str
    """Kind and fingerprint, as OpenSSH shows them: ``ED25519 key SHA256:...``."""
    name: Optional[str]
    """The principal in a file of allowed signers; none where a key was given, or nothing."""


def check(key: str) -> None:
    """See, as far as that goes without asking for a passphrase, that a key can sign.

    Raises `UsageError` where there is no ``ssh-keygen`` that can, or no such key.
    """
    done = _run(["-Y", "check-novalidate"])
    if "check-novalidate" not in done.stderr:
        raise _too_old()
    try:
        with Path(key).open("rb") as file:
            start = file.read(4096)
    except PermissionError as error:
        raise NotPermitted(f"{key}: {error.strerror}") from None
    except OSError as error:
        raise UsageError(f"{key}: {error.strerror}; name the file of an SSH key") from None
    if b"PRIVATE KEY-----" not in start and not _PUBLIC.match(start.decode("latin-1")):
        raise UsageError(f"{key}: is no SSH key")


def wants_touch(key: str) -> bool:
    """Whether it is a key on a token, which signs when it is touched."""
    with contextlib.suppress(OSError):
        public = Path(key if key.endswith(".pub") else f"{key}.pub")
        return public.read_bytes()[:3] == b"sk-"
    return False


def sign(data: Content, key: str) -> bytes:
    """Give the detached signature of ``data``, as a file ``.sig`` has it.

    ``key`` is the file of a private key, or of a public one whose private key an agent holds.  Raises
    `MemdumpError` where it cannot sign.
    """
    done = _run(["-Y", "sign", "-f", key, "-n", NAMESPACE], data)
    if done.returncode:
        raise MemdumpError(f"{key}: {_why_not_signed(done.stderr)}")
    return done.stdout.encode()


def verify(data: bytes, signature: bytes, signers: Optional[str] = None, public_key: bool = False) -> Signer:
    """Check a signature and tell whose it is.

    ``signers`` is a file of allowed signers (``ssh-keygen(1)``), or with ``public_key`` of public keys.
    Without it, only that the data are what was signed is checked, by whatever key.  Raises `BadSignature`
    where it does not hold, `UsageError` or `NotPermitted` where it cannot be checked.
    """
    if len(signature) > LARGEST:
        raise BadSignature("too large for a signature")
    if signers is None:
        return Signer(_checked(["check-novalidate"], data, signature), None)
    allowed = _public_keys(signers) if public_key else _read(signers)
    names = [NAMESPACE] if public_key else _principals(allowed, signature)
    for name in names:
        with contextlib.suppress(BadSignature), _piped(allowed) as path:
            key = _checked(["verify", "-f", path, "-I", name], data, signature)
            return Signer(key, None if public_key else name)
    key = _checked(["check-novalidate"], data, signature)
    raise BadSignature(f"signed with {key}, which is none that {signers} allows")


def _checked(how: List[str], data: bytes, signature: bytes) -> str:
    """Have one check made, and give the key."""
    with _piped(signature) as path:
        done = _run(["-Y", *how, "-n", NAMESPACE, "-s", path], data)
    good = _GOOD.search(done.stdout)
    if done.returncode or not good:
        raise BadSignature(_why_not_good(done.stderr))
    return good[1]


def _principals(allowed: bytes, signature: bytes) -> List[str]:
    """List the names under which the key of a signature stands among the allowed signers."""
    with _piped(allowed) as signers, _piped(signature) as path:
        done = _run(["-Y", "find-principals", "-f", signers, "-s", path])
    if "find-principals" in done.stderr or "unknown option" in done.stderr:
        raise _too_old()
    return list(dict.fromkeys(done.stdout.splitlines()))


def _too_old() -> UsageError:
    return UsageError(f"{_PROGRAM} here is too old for signatures: OpenSSH 8.2 or later has them")


def _public_keys(path: str) -> bytes:
    """Make allowed signers of a file of public keys."""
    text = _read(path).decode("utf-8", "replace")
    if "PRIVATE KEY-----" in text:
        raise UsageError(f"{path}: is a private key; give the public one, {path}.pub")
    keys = [found[1] for found in map(_PUBLIC.match, text.splitlines()) if found]
    if not keys:
        raise UsageError(f"{path}: no public SSH key is in it; give a file such as id_ed25519.pub")
    return "".join(f"{NAMESPACE} {key}\n" for key in keys).encode()


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST + 1)
    except PermissionError as error:
        raise NotPermitted(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise UsageError(f"{path}: too large; give a file with no more than the signers of memdump")
    return data


@contextlib.contextmanager
def _piped(data: bytes) -> Iterator[str]:
    """Give a path under which a child process reads ``data``, once."""
    inside, outside = os.pipe()
    try:
        os.set_blocking(outside, False)
        try:
            whole = os.write(outside, data) == len(data)
        except BlockingIOError:
            whole = False
        finally:
            os.close(outside)
        if not whole:
            raise MemdumpError("this user has too many pipes open to check a signature; try again later")
        yield f"{_PIPES}{inside}"
    finally:
        os.close(inside)


def _run(arguments: List[str], data: Content = b"") -> "subprocess.CompletedProcess[str]":
    pipes = [int(word[len(_PIPES) :]) for word in arguments if word.startswith(_PIPES)]
    pipe = subprocess.PIPE
    command = [_PROGRAM, *arguments]
    try:
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=pipes) as program:  # noqa: S603
            assert program.stdin
            with contextlib.suppress(BrokenPipeError):  # it ended without reading, and says why
                for piece in each(data):
                    program.stdin.write(piece)
            raw = program.communicate()
    except FileNotFoundError:
        raise UsageError(f"there is no {_PROGRAM} here; install OpenSSH's client") from None
    except OSError as error:
        raise UsageError(f"{_PROGRAM}: {error.strerror}") from None
    out, err = (text.decode("utf-8", "replace") for text in raw)
    return subprocess.CompletedProcess(program.args, program.returncode, out, err)


def _why_not_signed(said: str) -> str:
    if "incorrect passphrase" in said:
        return "the passphrase is wrong, or there was no terminal to ask for it"
    if "too open" in said:
        return "others may read the key, so OpenSSH does not use it; chmod 600"
    if "agent" in said.lower() or "No private key found" in said:
        return "the private key is not here, and no agent holds it"
    return f"cannot sign: {_last_line(said)}"


def _why_not_good(said: str) -> str:
    if "incorrect signature" in said:
        return "the signature is not over this manifest: one of them was changed"
    if "namespace" in said:
        return f"the signature was not made for {NAMESPACE}"
    return f"the signature cannot be read: {_last_line(said)}"


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip(" @\r\n")]
    text = lines[-1] if lines else f"{_PROGRAM} does not say why"
    return "".join(character if character.isprintable() else "?" for character in text[:200])
