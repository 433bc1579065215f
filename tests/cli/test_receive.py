"""``memdump receive`` as a process of its own, and senders that behave, die or lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from memdump.errors import MemdumpError
from memdump.machine.destination import Options, open_destination
from tests.machine.peers import certificate, read_record, receiver, record, sender, signed

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
HELLO = {"name": "web1.lime", "layers": [], "size": 0, "exact": False, "reserve": 0}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sha256sum(path: Path) -> str:
    done = subprocess.run(["sha256sum", path], capture_output=True, check=True, text=True)
    return done.stdout.split()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "evidence"
    made.mkdir()
    return made


def test_an_image_arrives_whole_with_its_manifest(folder: Path) -> None:
    data = os.urandom(5 * MIB + 7)
    with receiver(folder) as there:
        out, err = sender(f"tcp:127.0.0.1:{there.port}").communicate(data, timeout=60)
        status, path, said = there.end()
    assert (out, err) == (b"sending\ncommitted\ndone\n", b"")
    assert (status, path) == (0, f"{folder}/web1.lime\n")
    assert names(folder) == ["web1.lime", "web1.lime.custody.jsonl", "web1.lime.json"]
    assert sha256sum(folder / "web1.lime") == hashlib.sha256(data).hexdigest()
    assert (folder / "web1.lime.json").read_bytes() == b"{}"
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert hashlib.sha256(data).hexdigest() in said


def test_who_received_what_from_whom_begins_the_record_of_custody(folder: Path) -> None:
    with receiver(folder) as there:
        sender(f"tcp:127.0.0.1:{there.port}").communicate(b"abc", timeout=60)
        there.end()
    entry = json.loads((folder / "web1.lime.custody.jsonl").read_bytes())
    assert (entry["number"], entry["action"]) == (1, "received")
    assert entry["detail"].startswith("from 127.0.0.1:")
    assert entry["image"] == {"name": "web1.lime", "size": 3, "sha256": sha256sum(folder / "web1.lime")}


def test_a_file_can_be_named(folder: Path) -> None:
    with receiver(folder / "mine.lime") as there:
        sender(f"tcp:127.0.0.1:{there.port}").communicate(b"abc", timeout=60)
        assert there.end()[:2] == (0, f"{folder}/mine.lime\n")
    assert names(folder) == ["mine.lime", "mine.lime.custody.jsonl", "mine.lime.json"]


def test_ipv6(folder: Path) -> None:
    with receiver(folder, address="[::1]:0") as there:
        sender(f"tcp:[::1]:{there.port}").communicate(b"abc", timeout=60)
        assert there.end()[0] == 0
    assert (folder / "web1.lime").read_bytes() == b"abc"


def test_without_a_host_only_this_machine_is_served(folder: Path) -> None:
    with receiver(folder) as there, socket.create_connection(("127.0.0.1", there.port)):
        listening = subprocess.run(["ss", "-Hltn", f"sport = :{there.port}"], capture_output=True, text=True)
    if listening.returncode or not listening.stdout:
        pytest.skip("ss (iproute2) does not tell here who listens where")
    assert listening.stdout.split()[3] == f"127.0.0.1:{there.port}"


def test_a_sender_that_is_killed_leaves_a_part_at_any_moment(folder: Path) -> None:
    data = os.urandom(8 * MIB)
    chance = random.Random(7)
    outcomes = set()
    for number in range(12):
        with receiver(folder) as there:
            process = sender(f"tcp:127.0.0.1:{there.port}", pause=0.005, name=f"{number}.lime")
            assert process.stdin and process.stdout
            process.stdout.readline()
            feeding = chance.randrange(len(data))
            process.stdin.write(data[:feeding])
            process.stdin.flush()
            time.sleep(chance.random() * 0.05)
            process.kill()
            process.communicate()
            status, path, said = there.end()
        outcomes.add((status, path))
        assert names(folder) == [f"{number}.lime.custody.jsonl", f"{number}.lime.part"]
        part = (folder / f"{number}.lime.part").read_bytes()
        entry = json.loads((folder / f"{number}.lime.custody.jsonl").read_bytes())
        assert entry["detail"].endswith("; it broke off")
        assert entry["image"]["sha256"] == sha256sum(folder / f"{number}.lime.part")
        (folder / f"{number}.lime.custody.jsonl").unlink()
        assert data.startswith(part)
        assert f"after {len(part):,} bytes; what was written stands in {folder}/{number}.lime.part" in said
        (folder / f"{number}.lime.part").unlink()
    assert outcomes == {(1, "")}


def test_a_receiver_that_is_killed_is_told_by_the_sender(folder: Path) -> None:
    with receiver(folder) as there:
        process = sender(f"tcp:127.0.0.1:{there.port}")
        assert process.stdin and process.stdout and process.stderr
        process.stdout.readline()
        there.process.kill()
        there.process.wait()
        process.stdin.write(bytes(1000))
        process.stdin.close()
        err = process.stderr.read().decode().splitlines()[-1]
    assert process.wait() == 1
    assert f"127.0.0.1:{there.port}: the " in err
    assert "committed" not in process.stdout.read().decode()
    assert names(folder) == ["web1.lime.part"]


def test_nobody_listens() -> None:
    process = sender("tcp:127.0.0.1:9")
    err = process.communicate(b"", timeout=60)[1].decode().splitlines()[-1]
    assert err.endswith("127.0.0.1:9: nobody listens there; start 'memdump receive' there first")


@pytest.mark.parametrize("name", ["web1.lime", "web1.lime.part", "web1.lime.json", "web1.lime.custody.jsonl"])
def test_nothing_that_exists_is_written_over(folder: Path, name: str) -> None:
    (folder / name).write_text("precious")
    with receiver(folder) as there:
        out, err = sender(f"tcp:127.0.0.1:{there.port}").communicate(b"abc", timeout=60)
        assert out == b""
        assert f"the receiver says: {name}: exists already" in err.decode()
        assert str(folder) not in err.decode()
        # The next one is served.
        sender(f"tcp:127.0.0.1:{there.port}", name="other.lime").communicate(b"abc", timeout=60)
        status, path, said = there.end()
    assert (status, path) == (0, f"{folder}/other.lime\n")
    assert "was refused" in said
    assert (folder / name).read_text() == "precious"
    assert names(folder) == sorted([name, "other.lime", "other.lime.custody.jsonl", "other.lime.json"])


NAMES = (
    *("", ".", "..", "../a", "a/b", "/etc/a", ".hidden", "-rf", "a\n", "a\0", "ä", "a b", "a" * 201),
    *("a.part", "a.json", "a.json.sig", "a.custody.jsonl"),
)


def test_a_name_that_could_do_harm_is_refused(folder: Path) -> None:
    with receiver(folder) as there:
        for name in NAMES:
            with pytest.raises(MemdumpError, match="the receiver says: a name of letters, digits"):
                open_destination(f"tcp:127.0.0.1:{there.port}", Options(name))
    assert names(folder) == []
    assert names(folder.parent) == ["evidence"]


def talk(port: int, *sent: bytes) -> list[tuple[bytes, bytes]]:
    """What the receiver answers a sender that says just this and goes."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"".join(sent))
        connection.shutdown(socket.SHUT_WR)
        found = []
        while (answer := read_record(connection))[0]:
            found.append(answer)
        return found


def digested(data: bytes) -> bytes:
    return json.dumps({"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}).encode()


def beside(suffix: bytes, data: bytes) -> bytes:
    """A file beside the image, in small pieces."""
    pieces = b"".join(record(b"D", data[at : at + 2]) for at in range(0, len(data), 2))
    return record(b"B", suffix) + pieces + record(b"F", digested(data))


BEGIN = b"memdump stream 2\n" + record(b"H", json.dumps(HELLO).encode())


def test_the_protocol_by_hand(folder: Path) -> None:
    with receiver(folder) as there:
        answers = talk(
            there.port,
            *(BEGIN, record(b"D", b"ab"), record(b"D"), record(b"D", b"c"), record(b"C", digested(b"abc"))),
            *(beside(b".json", b"{}\n"), beside(b".json.sig", b"signature"), record(b"E")),
        )
        assert there.end()[:2] == (0, f"{folder}/web1.lime\n")
    assert [kind for kind, _ in answers] == [b"R", b"K", b"K", b"K"]
    assert json.loads(answers[0][1]) == {"name": "web1.lime"}
    assert [json.loads(data) for _, data in answers[1:]] == [
        json.loads(digested(data)) for data in (b"abc", b"{}\n", b"signature")
    ]
    assert (folder / "web1.lime").read_bytes() == b"abc"
    assert (folder / "web1.lime.json").read_bytes() == b"{}\n"


def test_an_image_that_is_given_up_stays_a_part_with_its_manifest(folder: Path) -> None:
    with receiver(folder) as there:
        talk(
            there.port,
            *(BEGIN, record(b"D", b"abc"), record(b"A", digested(b"abc"))),
            *(beside(b".json", b"{}"), record(b"E")),
        )
        status, path, said = there.end()
    assert (status, path) == (1, f"{folder}/web1.lime.part\n")
    assert "ended before its end" in said
    assert names(folder) == ["web1.lime.custody.jsonl", "web1.lime.json", "web1.lime.part"]


@pytest.mark.parametrize(
    "end",
    [
        b"",
        record(b"C", digested(b"abd")),
        record(b"C", b"{}"),
        record(b"C", b"[" * 4000),
        record(b"C", digested(b"abc"))[:-1],
        record(b"H", json.dumps(HELLO).encode()),
        record(b"K", digested(b"abc")),
        record(b"E"),
        record(b"B", b".json"),
        record(b"?"),
        b"D\xff\xff\xff\xff",
        b"D\x00\x10\x00\x01",
    ],
)
def test_what_is_not_ended_as_it_should_stays_a_part(folder: Path, end: bytes) -> None:
    with receiver(folder) as there:
        talk(there.port, BEGIN, record(b"D", b"abc"), end)
        status, path, said = there.end()
    assert (status, path) == (1, "")
    assert said.count("\n") == 2
    assert f"after 3 bytes; what was written stands in {folder}/web1.lime.part" in said
    assert names(folder) == ["web1.lime.custody.jsonl", "web1.lime.part"]
    assert (folder / "web1.lime.part").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "attached",
    [
        b"",
        record(b"B", b".bashrc"),
        record(b"B", b"/../x.json"),
        record(b"B"),
        record(b"B", b".json") + record(b"D", b"{}"),
        record(b"B", b".json") + record(b"D", b"{}") + record(b"E"),
        record(b"B", b".json") + record(b"D", b"{}") + record(b"F", digested(b"[]")),
        record(b"F", digested(b"")),
        b"F\xff\xff\xff\xff",
    ],
)
def test_a_whole_image_without_what_belongs_to_it_is_told(folder: Path, attached: bytes) -> None:
    with receiver(folder) as there:
        talk(there.port, BEGIN, record(b"D", b"abc"), record(b"C", digested(b"abc")), attached)
        status, path, said = there.end()
    assert (status, path) == (1, f"{folder}/web1.lime\n")
    assert "what belongs to it did not all come" in said
    assert names(folder) == ["web1.lime", "web1.lime.custody.jsonl"]


STRANGE = (
    (b"GET / HTTP/1.0\r\n\r\n", "is no memdump"),
    (b"memdump stream 3\n", "is no memdump, or one of another age"),
    (b"\x16\x03\x01\x02\x00", "speaks TLS; listen with --tls-cert"),
    (b"memdump stream 2\nH\xff\xff\xff\xff", "does not understand"),
    (b"memdump stream 2\n" + record(b"H", b"[]"), "does not understand"),
    (
        b"memdump stream 2\n" + record(b"H", json.dumps({**HELLO, "name": 7}).encode()),
        "does not understand",
    ),
    (
        b"memdump stream 2\n" + record(b"H", json.dumps({**HELLO, "reserve": -1}).encode()),
        "does not understand",
    ),
    (
        b"memdump stream 2\n" + record(b"H", json.dumps({**HELLO, "reserve": 1 << 63}).encode()),
        "does not understand",
    ),
    (b"memdump stream 2\n" + record(b"D", b"abc"), "does not understand"),
)


def test_strangers_are_told_and_the_next_one_is_served(folder: Path) -> None:
    with receiver(folder) as there:
        assert talk(there.port) == []
        for sent, _ in STRANGE:
            assert [kind for kind, _ in talk(there.port, sent)] == [b"X"]
        assert names(folder) == []
        sender(f"tcp:127.0.0.1:{there.port}").communicate(b"abc", timeout=60)
        status, _, err = there.end()
    assert status == 0
    *strangers, known, _ = err.splitlines()  # nothing of who said nothing
    assert known.endswith(f"sends {folder}/web1.lime")
    for line, (_, said) in zip(strangers, STRANGE, strict=True):
        assert said in line


def test_an_image_too_large_for_the_disk_is_refused_before_it_is_taken(folder: Path) -> None:
    with receiver(folder) as there:
        process = sender(f"tcp:127.0.0.1:{there.port}", size=1 << 60, exact=True)
        err = process.communicate(b"", timeout=60)[1]
    assert b"the receiver says: there is room for" in err
    assert names(folder) == []


FULL = """
mount -t tmpfs -o size=64m none "$1" || exit 77
shift
exec "$@"
"""


def test_a_full_disk_ends_the_image_in_good_order_and_its_sender_is_told(
    tmp_path: Path, folder: Path
) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("mounting a small disk takes root and unshare (util-linux)")
    script = (
        "import os, sys, hashlib\n"
        "from memdump.machine.destination import Options, open_destination\n"
        "taken = hashlib.sha256()\n"
        "with open_destination(sys.argv[1], Options('web1.lime')) as place:\n"
        "    while not place.trouble:\n"
        "        data = os.urandom(30_000); place.write(data); taken.update(data)\n"
        "    place.write(b'the end'); taken.update(b'the end')\n"
        "    place.abandon(); place.attach('.json', b'x' * 10000)\n"
        "print(place.trouble, taken.hexdigest())\n"
    )
    command: list[str | Path] = ["unshare", "--mount", "sh", "-c", FULL, "sh", folder]
    command += [sys.executable, "-m", "memdump", "receive", "0", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as there:
        assert there.stderr
        line = there.stderr.readline()
        if "listening" not in line:
            pytest.skip(f"a small disk is not to be mounted here: {line.strip()}")
        port = line.split(",")[0].rsplit(":", 1)[1]
        sent = subprocess.run(
            [sys.executable, "-c", script, f"tcp:127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        out, err = there.communicate(timeout=60)
    assert sent.stderr == ""
    trouble, _, sha256 = sent.stdout.strip().rpartition(" ")
    assert trouble == "no room left on the disk of the receiver"
    assert out == f"{folder}/web1.lime.part\n"
    assert sha256 in err
    assert there.returncode == 1


def test_many_senders_until_interrupted(folder: Path) -> None:
    data = os.urandom(3 * MIB)
    with receiver(folder, "--keep") as there:
        processes = [sender(f"tcp:127.0.0.1:{there.port}", 0.01, name=f"{n}.lime") for n in range(3)]
        for process in processes:
            assert process.communicate(data, timeout=60)[0] == b"sending\ncommitted\ndone\n"
        time.sleep(0.2)
        there.process.send_signal(signal.SIGINT)
        status, out, _ = there.end()
    assert status == 0
    assert sorted(out.splitlines()) == [f"{folder}/{n}.lime" for n in range(3)]
    assert {sha256sum(folder / f"{n}.lime") for n in range(3)} == {hashlib.sha256(data).hexdigest()}


HASTY = """
import sys
from memdump.cli import main, receive
from memdump.machine import wire
wire.STALL, receive._AT_ONCE = 1.0, 2
sys.exit(main(["receive", "0", sys.argv[1], "--keep"]))
"""


def test_senders_that_fall_silent_keep_nobody_waiting(folder: Path) -> None:
    command: list[str | Path] = [sys.executable, "-c", HASTY, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as there:
        assert there.stderr
        port = int(there.stderr.readline().split(",")[0].rsplit(":", 1)[1])
        silent = []
        for number in range(2):
            hello = json.dumps({**HELLO, "name": f"{number}.lime"}).encode()
            silent.append(socket.create_connection(("127.0.0.1", port), 60))
            silent[-1].sendall(b"memdump stream 2\n" + record(b"H", hello))
            assert read_record(silent[-1])[0] == b"R"
        # This one has little to say, but says that it is there.
        out, err = sender(f"tcp:127.0.0.1:{port}", name="other.lime").communicate(b"abc", timeout=60)
        assert (out, err) == (b"sending\ncommitted\ndone\n", b"")
        there.send_signal(signal.SIGINT)
        _, said = there.communicate(timeout=60)
    assert said.count("does not answer, after 0 bytes") == 2


def test_a_sender_that_only_says_that_it_is_there_is_waited_for(folder: Path) -> None:
    command: list[str | Path] = [sys.executable, "-c", HASTY.replace(', "--keep"', ""), folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as there:
        assert there.stderr
        port = int(there.stderr.readline().split(",")[0].rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(BEGIN)
            for _ in range(6):
                time.sleep(0.4)
                connection.sendall(record(b"P"))
            connection.sendall(record(b"D", b"abc") + record(b"C", digested(b"abc")))
            for _ in range(6):
                time.sleep(0.4)
                connection.sendall(record(b"P"))
            connection.sendall(record(b"E"))
            out, said = there.communicate(timeout=60)
    assert (there.returncode, out) == (0, f"{folder}/web1.lime\n"), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_what_there_is(folder: Path, number: signal.Signals) -> None:
    with receiver(folder) as there:
        process = sender(f"tcp:127.0.0.1:{there.port}")
        assert process.stdout
        process.stdout.readline()
        there.process.send_signal(number)
        status, _, err = there.end()
        process.kill()
        process.communicate()
    assert status == 1
    assert f"interrupted; what was received stands in {folder}/web1.lime.part" in err
    entry = json.loads((folder / "web1.lime.custody.jsonl").read_bytes())
    assert entry["detail"].endswith("; interrupted")


def test_interrupted_behind_the_image_it_says_that_it_is_whole(folder: Path) -> None:
    with receiver(folder) as there, socket.create_connection(("127.0.0.1", there.port), 60) as connection:
        connection.sendall(BEGIN + record(b"D", b"abc") + record(b"C", digested(b"abc")))
        assert [read_record(connection)[0] for _ in range(2)] == [b"R", b"K"]
        there.process.send_signal(signal.SIGINT)
        status, _, err = there.end()
    assert status == 1
    assert f"interrupted; {folder}/web1.lime is whole" in err
    assert names(folder) == ["web1.lime", "web1.lime.custody.jsonl"]
    entry = json.loads((folder / "web1.lime.custody.jsonl").read_bytes())
    assert entry["image"]["name"] == "web1.lime"
    assert entry["detail"].endswith("; interrupted")


@pytest.mark.parametrize("tls", [False, True])
def test_what_several_were_sending_when_interrupted_is_recorded(
    tmp_path: Path, folder: Path, tls: bool
) -> None:
    options: list[str | Path] = []
    context = None
    if tls:
        cert, key = certificate(tmp_path, "receiver")
        options = ["--tls-cert", cert, "--tls-key", key]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with receiver(folder, "--keep", *options) as there, contextlib.ExitStack() as stack:
        for number in range(2):
            hello = json.dumps({**HELLO, "name": f"{number}.lime"}).encode()
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", there.port), 60))
            if context:
                connection = stack.enter_context(context.wrap_socket(connection))
            connection.sendall(b"memdump stream 2\n" + record(b"H", hello) + record(b"D", b"abc"))
            assert read_record(connection)[0] == b"R"
        there.process.send_signal(signal.SIGINT)
        status, out, err = there.end()
    assert (status, out) == (1, ""), err
    assert err.count("what was written stands in") == 2
    for number in range(2):
        entry = json.loads((folder / f"{number}.lime.custody.jsonl").read_bytes())
        assert entry["detail"].endswith("; interrupted")
        assert entry["image"]["sha256"] == sha256sum(folder / f"{number}.lime.part")


EARLY = """
import ctypes, functools, operator, os, signal, socket, sys
from memdump.cli import main
kill = functools.partial(ctypes.CDLL(None).kill, os.getpid(), signal.SIGINT)
# No step of the interpreter lies between the two, so that Python's handler cannot run before the call waits.
socket.socket.accept = lambda listener: list(map(operator.call, [kill, listener._accept]))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("options", "status"), [((), 130), (("--keep",), 0)])
def test_a_signal_just_before_it_waits_ends_it(folder: Path, options: tuple[str, ...], status: int) -> None:
    command = [sys.executable, "-c", EARLY, "receive", "0", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr


def test_a_folder_for_many_and_a_port(folder: Path) -> None:
    def said(*arguments: str | Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "memdump", "receive", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    assert said("0", folder / "a.lime", "--keep")[0] == 2
    (folder / "b.lime").write_text("precious")
    (folder / "c.lime.part").write_text("precious")
    for target, words in (
        ("b.lime", "b.lime: exists already"),
        ("c.lime", "c.lime.part: exists already"),
        ("none/d.lime", "none: No such file or directory; name a folder"),
    ):
        status, err = said("0", folder / target)
        assert status == 2, target
        assert words in err
    status, err = said("a..b:9000", folder)
    assert (status, err) == (2, "memdump: a..b:9000: cannot listen there: is no name of a host\n")
    for address in ("x", "1:2:3", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:٣"):
        status, err = said(address, folder)
        assert status == 2, address
        assert "is no address" in err
    status, err = said("192.0.2.1:0", folder)
    assert status == 2
    assert "cannot listen there" in err
    assert said("0", folder, "--tls-ca", "ca.pem")[0] == 2
    status, err = said("0", folder, "--tls-cert", folder / "none.pem")
    assert (status, err) == (2, f"memdump: {folder}/none.pem: No such file or directory\n")


def test_over_tls_with_the_receiver_s_own_certificate(tmp_path: Path, folder: Path) -> None:
    cert, key = certificate(tmp_path, "receiver")
    with receiver(folder, "--tls-cert", cert, "--tls-key", key) as there:
        out, err = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(cert)).communicate(bytes(MIB), timeout=60)
        assert (out, err) == (b"sending\ncommitted\ndone\n", b"")
        assert there.end()[0] == 0
    assert (folder / "web1.lime").read_bytes() == bytes(MIB)


def test_over_tls_with_an_authority_the_name_must_be_right(tmp_path: Path, folder: Path) -> None:
    authority = certificate(tmp_path, "authority")
    good = signed(tmp_path, "good", authority, "IP:127.0.0.1")
    other = signed(tmp_path, "other", authority, "DNS:other.example")
    with receiver(folder, "--tls-cert", good[0], "--tls-key", good[1]) as there:
        process = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(authority[0]))
        assert process.communicate(b"abc", timeout=60) == (b"sending\ncommitted\ndone\n", b"")
        status, _, err = there.end()
        assert status == 0
        assert "TLS" not in err
    with receiver(folder, "--tls-cert", other[0], "--tls-key", other[1]) as there:
        process = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(authority[0]), name="b.lime")
        err = process.communicate(b"abc", timeout=60)[1].decode().splitlines()[-1]
    assert "its certificate is not accepted: IP address mismatch" in err
    assert err.endswith("; nothing was sent")
    assert not (folder / "b.lime.part").exists()


@pytest.mark.parametrize("ca", [None, "stranger"])
def test_over_tls_a_receiver_that_is_not_known_gets_nothing(
    tmp_path: Path, folder: Path, ca: str | None
) -> None:
    cert, key = certificate(tmp_path, "receiver", "IP:127.0.0.1")
    certificate(tmp_path, "stranger", "IP:127.0.0.1")
    with receiver(folder, "--tls-cert", cert, "--tls-key", key) as there:
        options: dict[str, Any] = {"tls_ca": str(tmp_path / "stranger.pem")} if ca else {"tls": True}
        process = sender(f"tcp:127.0.0.1:{there.port}", **options)
        err = process.communicate(b"abc", timeout=60)[1].decode().splitlines()[-1]
    assert "its certificate is not accepted: self" in err
    assert names(folder) == []


def test_only_senders_with_a_certificate_are_served_where_it_is_asked_for(
    tmp_path: Path, folder: Path
) -> None:
    cert, key = certificate(tmp_path, "receiver")
    authority = certificate(tmp_path, "authority")
    mine = signed(tmp_path, "web1", authority, "DNS:web1")
    alien = certificate(tmp_path, "alien")
    with receiver(folder, "--tls-cert", cert, "--tls-key", key, "--tls-ca", authority[0]) as there:
        none: dict[str, Any] = {}
        for shown in (none, {"tls_cert": str(alien[0]), "tls_key": str(alien[1])}):
            process = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(cert), **shown)
            out, err = process.communicate(b"abc", timeout=60)
            assert out == b""
            assert f"127.0.0.1:{there.port}: " in err.decode().splitlines()[-1]
        assert names(folder) == []
        options: dict[str, Any] = {"tls_cert": str(mine[0]), "tls_key": str(mine[1])}
        process = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(cert), **options)
        assert process.communicate(b"abc", timeout=60)[0].endswith(b"done\n")
        assert there.end()[0] == 0


def test_a_plain_sender_is_not_served_over_tls_and_the_other_way_round(tmp_path: Path, folder: Path) -> None:
    cert, key = certificate(tmp_path, "receiver")
    with receiver(folder, "--tls-cert", cert, "--tls-key", key) as there:
        out, err = sender(f"tcp:127.0.0.1:{there.port}").communicate(b"abc", timeout=60)
        assert out == b""
        assert f"127.0.0.1:{there.port}: " in err.decode().splitlines()[-1]
    with receiver(folder) as there:
        out, err = sender(f"tcp:127.0.0.1:{there.port}", tls_ca=str(cert)).communicate(b"abc", timeout=60)
        assert out == b""
        assert "nothing was sent" in err.decode()
    assert names(folder) == []


def test_openssl_speaks_to_the_receiver(tmp_path: Path, folder: Path) -> None:
    cert, key = certificate(tmp_path, "receiver")
    sent = BEGIN + record(b"D", b"abc") + record(b"C", digested(b"abc")) + record(b"E")
    with receiver(folder, "--tls-cert", cert, "--tls-key", key) as there:
        where: list[str | Path] = [
            "-connect",
            f"127.0.0.1:{there.port}",
            "-CAfile",
            cert,
            "-verify_return_error",
            "-quiet",
        ]
        old = subprocess.run(
            ["openssl", "s_client", *where, "-tls1_1", "-cipher", "ALL@SECLEVEL=0"],
            input=b"",
            capture_output=True,
        )
        assert old.returncode != 0
        with subprocess.Popen(
            ["openssl", "s_client", *where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin
            client.stdin.write(sent)
            client.stdin.flush()
            assert there.end()[0] == 0
            client.stdin.close()
    assert (folder / "web1.lime").read_bytes() == b"abc"


def test_python_s_own_tls_speaks_to_the_receiver(tmp_path: Path, folder: Path) -> None:
    cert, key = certificate(tmp_path, "receiver", "IP:127.0.0.1")
    sent = BEGIN + record(b"D", b"abc") + record(b"C", digested(b"abc")) + record(b"E")
    context = ssl.create_default_context(cafile=str(cert))
    with receiver(folder, "--tls-cert", cert, "--tls-key", key) as there:
        with (
            socket.create_connection(("127.0.0.1", there.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(sent)
            assert read_record(connection)[0] == b"R"
            assert read_record(connection) == (b"K", digested(b"abc"))
        assert there.end()[0] == 0


def test_only_the_standard_library_is_needed() -> None:
    code = (
        "import sys; before = set(sys.modules); import memdump.cli.receive, memdump.machine.tcp\n"
        "import memdump.machine.tls\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["memdump"]
