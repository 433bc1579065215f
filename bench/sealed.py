"""A triage of a sealed image beside one of the plain image: ``python -m bench.sealed IMAGE``.

The image is sealed in a temporary folder, which needs the room.  The rounds of the forms alternate, so that a
busy machine slows all of them, and the quickest of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench.processes import Taken, run, script, verdict
from memdump.image.age_keys import X25519Recipient, x25519_public
from memdump.image.bech32 import encode
from memdump.machine.output import Output
from memdump.seal import Sealing

STEP = 4 << 20
MOST = 1.5
"""Times the plain image's triage that a sealed one's may take."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sealed", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    args = parser.parse_args()
    measure(args.image, args.rounds)


def measure(image: Path, rounds: int) -> None:
    """Measure one image."""
    with tempfile.TemporaryDirectory(prefix="memdump-bench-") as name:
        folder = Path(name)
        secret = bytes(range(32))
        identity = folder / "key"
        identity.write_text(encode("AGE-SECRET-KEY-", secret) + "\n")
        key = X25519Recipient(x25519_public(secret))
        paths = {"plain": image}
        for sealing in (Sealing(compress=True), Sealing(recipients=[key]), Sealing(True, [key])):
            sealed = folder / ("image.lime" + sealing.suffix)
            _seal(image, sealed, sealing)
            paths[" + ".join(sealing.layers)] = sealed
        taken: dict[str, list[Taken]] = {form: [] for form in paths}
        for _ in range(rounds + 1):
            for form, path in paths.items():
                triage: list[str | Path] = [script("memdump"), "triage", path, "--identity", identity]
                taken[form].append(run(triage, folder / "cache"))
    for form, results in taken.items():
        assert {one.status for one in results} <= {0, 1}, results[0].errors
        seconds, plain = (min(one.seconds for one in taken[each][1:]) for each in (form, "plain"))
        processor = min(one.processor for one in results[1:])
        memory = max(one.anonymous for one in results) / 1e6
        print(f"{form}: {seconds:.3f} s, {processor:.2f} s of the processor, {memory:.0f} MB of memory")
        if form != "plain":
            print(verdict(f"a triage of the image sealed with {form}", seconds / plain, MOST, at_most=True))


def _seal(image: Path, sealed: Path, sealing: Sealing) -> None:
    with image.open("rb") as file, Output(sealed) as out:
        stream = sealing.upon(out)
        while data := file.read(STEP):
            stream.write(data)
        stream.close()
        out.commit()


if __name__ == "__main__":
    main()
