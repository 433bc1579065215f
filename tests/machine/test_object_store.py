"""An image into an object store: S3 as moto plays it, asked over plain HTTP what it holds."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from memdump.errors import MemdumpError, UsageError
from memdump.machine import object_store
from memdump.machine.destination import Destination, Options, open_destination
from tests.machine.clouds import Clouds, clouds
from tests.machine.peers import sender

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("obstore")
MIB = 1 << 20
PLAIN = Options("web1.lime")
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "me",
    "AWS_SECRET_ACCESS_KEY": "S3CR3T",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Bucket:
    """What a bucket holds, as the client of its makers tells it."""

    def __init__(self, endpoint: str) -> None:
        self._client = pytest.importorskip("boto3").client("s3", endpoint_url=endpoint)
        self._client.create_bucket(Bucket="evidence")

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket="evidence", Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket="evidence", Key=key)["Body"].read()
        return data

    def keys(self) -> list[str]:
        listed = self._client.list_objects_v2(Bucket="evidence").get("Contents", [])
        return sorted(entry["Key"] for entry in listed)

    def uploads(self) -> int:
        return len(self._client.list_multipart_uploads(Bucket="evidence").get("Uploads", []))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    return Bucket(endpoint)


@pytest.mark.parametrize("size", [0, 1000, 40 * MIB + 1])
def test_an_object_appears_when_it_is_whole(bucket: Bucket, size: int) -> None:
    data = os.urandom(size)
    with open_destination("s3://evidence/case/7/a.lime", PLAIN) as place:
        assert (place.place, place.file) == ("s3://evidence/case/7/a.lime", "a.lime")
        buffer = bytearray(MIB)
        for start in range(0, size, MIB):
            piece = data[start : start + MIB]
            buffer[: len(piece)] = piece
            place.write(memoryview(buffer)[: len(piece)])
            buffer[:] = bytes(MIB)  # it is ours again
        assert bucket.keys() == []
        place.commit()
        place.attach(".json", b"{}")
    assert bucket.keys() == ["case/7/a.lime", "case/7/a.lime.json"]
    assert hashlib.sha256(bucket.get("case/7/a.lime")).digest() == hashlib.sha256(data).digest()
    assert bucket.get("case/7/a.lime.json") == b"{}"
    assert bucket.uploads() == 0


def test_a_key_that_is_a_folder_gets_the_name_of_the_image(bucket: Bucket) -> None:
    for url in ("s3://evidence/", "s3://evidence/case/"):
        with open_destination(url, PLAIN) as place:
            place.commit()
    assert bucket.keys() == ["case/web1.lime", "web1.lime"] or bucket.keys() == [
        "web1.lime",
        "case/web1.lime",
    ]


@pytest.mark.parametrize("size", [1000, 40 * MIB])
@pytest.mark.parametrize("how", ["abandon", "leave"])
def test_what_is_not_committed_leaves_nothing_and_no_parts_that_cost_money(
    bucket: Bucket, size: int, how: str
) -> None:
    with open_destination("s3://evidence/a.lime", PLAIN) as place:
        place.write(os.urandom(size))
        if how == "abandon":
            assert bucket.uploads() == (1 if size > 16 * MIB else 0)
            place.abandon()
            place.attach(".json", b"{}")
    assert bucket.uploads() == 0
    assert bucket.keys() == (["a.lime.json"] if how == "abandon" else [])
    assert place.partial == "nothing is kept at s3://evidence/a.lime"


def test_a_sender_that_is_killed_leaves_no_object(bucket: Bucket) -> None:
    process = sender("s3://evidence/a.lime")
    assert process.stdin and process.stdout
    process.stdout.readline()
    process.stdin.write(bytes(40 * MIB))
    process.stdin.flush()
    time.sleep(0.2)
    process.kill()
    process.communicate()
    assert bucket.keys() == []


@pytest.mark.parametrize("name", ["a.lime", "a.lime.json"])
def test_no_object_is_written_over(bucket: Bucket, name: str) -> None:
    bucket.put(name, b"precious")
    with pytest.raises(UsageError, match=f"^s3://evidence/{name}: exists already"):
        open_destination("s3://evidence/a.lime", PLAIN._replace(attachments=(".json",)))
    assert bucket.get(name) == b"precious"


def fill(place: Destination, size: int) -> None:
    with place:
        place.write(os.urandom(size))
        place.commit()


@pytest.mark.parametrize("size", [1000, 40 * MIB])
def test_a_bucket_that_is_not_there_is_one_line(bucket: Bucket, size: int) -> None:
    place = open_destination("s3://nowhere/a.lime", PLAIN)
    with pytest.raises(MemdumpError, match=r"^s3://nowhere/a\.lime: ") as told:
        fill(place, size)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 420


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MemdumpError, match=r"^s3://evidence/a\.lime: ") as told:
        open_destination("s3://evidence/a.lime", PLAIN)
    assert "S3CR3T" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:///a.lime", "is no object"),
        ("s3://", "is no object"),
        ("s3://bucket/a?secret", "^s3://bucket/a: is no object"),
        ("az://container/a.lime", "^az://container/a.lime: "),
    ],
)
def test_what_names_no_object_is_told(url: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as told:
        open_destination(url, PLAIN)
    assert "secret" not in str(told.value)


def test_without_the_package_the_way_to_it_is_told() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from memdump.machine.destination import Options, open_destination\n"
        "open_destination('gs://bucket/a.lime', Options('a'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "gs: needs a package here: pip install 'memdump[cloud]'" in done.stderr


def test_a_large_image_goes_up_in_fewer_parts_than_the_store_takes(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    asked: dict[str, Any] = {}
    real = obstore.open_writer

    def open_writer(*arguments: Any, **options: Any) -> Any:
        asked.update(options)
        return real(*arguments, **options)

    monkeypatch.setattr(obstore, "open_writer", open_writer)
    with open_destination("s3://evidence/a.lime", PLAIN._replace(size=1 << 40)):
        assert (1 << 40) / asked["buffer_size"] < 10_000
    assert bucket.uploads() == 0


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    with clouds() as found:
        account = {"gcs_base_url": found.endpoint, "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield found


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    with clouds() as found:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "me")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"S3CR3T").decode())
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", found.endpoint)
        yield found


@pytest.mark.parametrize(("name", "scheme"), [("google", "gs"), ("azure", "az")])
@pytest.mark.parametrize("size", [1000, 40 * MIB + 1])
def test_other_stores_take_it_alike(
    request: pytest.FixtureRequest, name: str, scheme: str, size: int
) -> None:
    cloud: Clouds = request.getfixturevalue(name)
    data = os.urandom(size)
    with open_destination(f"{scheme}://evidence/case/a.lime", PLAIN) as place:
        for start in range(0, size, MIB):
            place.write(data[start : start + MIB])
        assert cloud.objects == {}
        place.commit()
        place.attach(".json", b"{}")
    assert sorted(cloud.objects) == ["/evidence/case/a.lime", "/evidence/case/a.lime.json"]
    assert cloud.objects["/evidence/case/a.lime"] == data
    assert cloud.parts == {}
    with pytest.raises(UsageError, match="exists already"):
        open_destination(f"{scheme}://evidence/case/a.lime", PLAIN)
    with open_destination(f"{scheme}://evidence/b.lime", PLAIN) as place:
        place.write(data)
    assert "/evidence/b.lime" not in cloud.objects


def test_the_words_of_the_library_are_short_and_hold_no_signature() -> None:
    words = object_store._words(
        ValueError("no\nway https://h/x?sig=secret (tries)\n\nDebug source: " + "x" * 1000)
    )
    assert words == "no way https://h/x (tries)"
