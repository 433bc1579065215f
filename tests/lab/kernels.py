"""Debian's kernels, fetched once into the lab's cache with the machine's own apt configuration.

Nothing of the machine's apt state is touched: the lab's sources, lists and packages live in a temporary
folder.  Which archive to ask and which key to trust are read from the machine's apt sources.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import tempfile
from pathlib import Path

from tests.lab import cache

KERNEL_PACKAGE = re.compile(r"linux-(image|binary|modules)-\d\S*")
"""Packages with a kernel's files; from 7.0 image and modules are two packages behind an empty third."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """A kernel to test with: the Debian suites that have it, the preferred one first."""

    name: str
    suites: tuple[str, ...]
    major: int
    architecture: str = "amd64"
    """As Debian calls it."""


SERIES = {
    series.name: series
    for series in (
        Series("5.10", ("bullseye",), 5),
        Series("6.1", ("bookworm",), 6),
        Series("6.12", ("trixie",), 6),
        Series("7.x", ("trixie-backports", "sid"), 7),
        Series("6.12-arm64", ("trixie",), 6, "arm64"),
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: ``root`` holds ``boot/vmlinuz-RELEASE`` and ``lib/modules/RELEASE``."""

    release: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"


def get(name: str) -> Kernel:
    """The kernel of a series, from the cache or else from the archive; raises `cache.NoLab`."""
    target = cache.folder() / "kernels" / name
    with cache.locked(target):
        if not (target / "kernel.json").exists():
            _fetch(SERIES[name], target)
    return Kernel(json.loads((target / "kernel.json").read_text())["release"], target / "root")


def _fetch(series: Series, target: Path) -> None:
    reasons = []
    for suite in series.suites:
        for archive in archives():
            try:
                with tempfile.TemporaryDirectory(prefix="memdump-apt-") as scratch:
                    apt = Apt(Path(scratch), archive, suite, series.architecture)
                    packages = apt.kernel_packages(series.major)
                    with cache.made_whole(target) as folder:
                        _unpack(apt.download(packages), folder)
            except cache.NoLab as error:
                reasons.append(f"{suite}: {error}")
            else:
                return
    raise cache.NoLab(
        f"no kernel {series.name} to be had from the apt archives of this machine: {'; '.join(reasons)}"
    )


def _unpack(packages: list[Path], folder: Path) -> None:
    root = folder / "root"
    for package in packages:
        cache.run(cache.tool("dpkg-deb", "dpkg"), "-x", str(package), str(root))
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    (release,) = (path.name for path in (root / "lib/modules").iterdir())
    inside = root / "lib/modules" / release / "vmlinuz"
    if inside.exists():
        (root / "boot").mkdir(exist_ok=True)
        inside.rename(root / "boot" / f"vmlinuz-{release}")
    cache.run(cache.tool("depmod", "kmod"), "-b", str(root), release)
    names = [package.name for package in packages]
    (folder / "kernel.json").write_text(json.dumps({"release": release, "packages": names}, indent=2))


def get_packages(
    name: str, packages: list[str], suite: str | None = None, architecture: str = "amd64"
) -> Path:
    """A folder with the files of packages of this machine's own release, kept as ``name``.

    What they need comes with them, but for what the machine itself has; with packages of another ``suite``
    or ``architecture`` all of it, down to the C library.  Raises `cache.NoLab`.
    """
    target = cache.folder() / "packages" / name
    with cache.locked(target):
        if not target.exists():
            (archive, *_) = archives()
            with tempfile.TemporaryDirectory(prefix="memdump-apt-") as scratch:
                apt = Apt(Path(scratch), archive, suite or own_release(), architecture)
                alone = suite is not None or architecture != "amd64"
                downloaded = apt.download_to_add(packages, alone=alone)
                with cache.made_whole(target) as folder:
                    for package in downloaded:
                        cache.run(cache.tool("dpkg-deb", "dpkg"), "-x", str(package), str(folder))
    return target


def get_source(package: str, suites: tuple[str, ...], folder: Path) -> list[Path]:
    """Download the archives of a source package, of the first suite that has it; raises `cache.NoLab`."""
    reasons = []
    for number, (suite, archive) in enumerate(itertools.product(suites, archives())):
        try:
            apt = Apt(folder / str(number), archive, suite, kind="deb-src")
            return apt.download_source(package)
        except cache.NoLab as error:
            reasons.append(f"{suite}: {error}")
    raise cache.NoLab(f"the source of {package} is not to be had: {'; '.join(reasons)}")


class Apt:
    """apt, pointed at one suite of one archive, with all of its state in ``scratch``."""

    def __init__(
        self, scratch: Path, archive: Archive, suite: str, architecture: str = "amd64", kind: str = "deb"
    ) -> None:
        self.scratch = scratch
        self._architecture = architecture
        for folder in ("lists/partial", "cache/archives/partial", "packages"):
            (scratch / folder).mkdir(parents=True)
        sources = scratch / "lab.sources"
        sources.write_text(archive.stanza(suite, kind))
        self.options = [
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=/dev/null",
            f"-oDir::State::Lists={scratch / 'lists'}",
            "-oDir::State::status=/dev/null",
            f"-oDir::Cache={scratch / 'cache'}",
            f"-oAPT::Architecture={architecture}",
            f"-oAPT::Architectures={architecture}",
            "-oAPT::Sandbox::User=",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
            "-oAPT::Update::Error-Mode=any",
        ]
        cache.run("apt-get", "-q", *self.options, "update")

    def kernel_packages(self, major: int) -> list[str]:
        """``name=version`` of the packages with the current kernel's files, as apt's own Depends tell."""
        found: dict[str, str] = {}
        waiting = [f"linux-image-{self._architecture}"]
        while waiting:
            fields = self._show(waiting.pop())
            for name, version in re.findall(r"(linux-\S+) \(= ([^)]+)\)", fields.get("Depends", "")):
                if KERNEL_PACKAGE.fullmatch(name) and name not in found:
                    found[name] = version
                    waiting.append(name)
        release = next((name.split("-", 2)[2] for name in found), "none")
        if not release.startswith(f"{major}."):
            raise cache.NoLab(f"its kernel is {release}")
        return [f"{name}={version}" for name, version in found.items()]

    def download(self, packages: list[str]) -> list[Path]:
        cache.run("apt-get", "-q", *self.options, "download", *packages, cwd=self.scratch / "packages")
        return sorted((self.scratch / "packages").glob("*.deb"))

    def download_to_add(self, packages: list[str], *, alone: bool) -> list[Path]:
        """Download these and whatever of their dependencies this machine lacks, or has too old.

        Where they are to be ``alone``, nothing of the machine is counted on.
        """
        options = [option for option in self.options if alone or "Dir::State::status" not in option]
        options += ["-oDebug::NoLocking=1", "-y", "--no-install-recommends", "--download-only"]
        cache.run("apt-get", "-q", *options, "install", *packages)
        return sorted((self.scratch / "cache/archives").glob("*.deb"))

    def download_source(self, package: str) -> list[Path]:
        """Download what upstream released, and none of Debian's changes."""
        folder = self.scratch / "packages"
        cache.run(
            "apt-get", "-q", *self.options, "source", "--download-only", "--tar-only", package, cwd=folder
        )
        return sorted(folder.glob("*.tar.*"))

    def _show(self, package: str) -> dict[str, str]:
        text = cache.run("apt-cache", *self.options, "show", "--no-all-versions", package)
        return dict(re.findall(r"^([A-Za-z-]+): (.*)$", text, re.MULTILINE))


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """A Debian archive that the machine itself uses, and the key that it is trusted by."""

    uri: str
    signed_by: str | None

    def stanza(self, suite: str, kind: str = "deb") -> str:
        lines = [f"Types: {kind}", f"URIs: {self.uri}", f"Suites: {suite}", "Components: main"]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join([*lines, ""])


def own_release(etc: Path = Path("/etc")) -> str:
    """The code name of the release that this machine runs, or nothing."""
    found = re.search(r"^VERSION_CODENAME=\"?(\w+)", (etc / "os-release").read_text(), re.MULTILINE)
    return found[1] if found else ""


def archives(etc: Path = Path("/etc")) -> list[Archive]:
    """The archives that the machine takes its own release's main component from; raises `cache.NoLab`."""
    release = own_release(etc)
    files = [etc / "apt/sources.list", *sorted((etc / "apt/sources.list.d").glob("*"))]
    found: dict[str, Archive] = {}
    for file in files:
        entries = (
            _deb822(file) if file.suffix == ".sources" else _one_line(file) if file.suffix == ".list" else []
        )
        for uris, suites, components, signed_by in entries:
            if "main" in components and release in suites:
                found.update((uri, Archive(uri, signed_by)) for uri in uris)
    if not found:
        raise cache.NoLab("the apt sources of this machine name no Debian archive to take packages from")
    return list(found.values())


Entry = tuple[list[str], list[str], list[str], str | None]


def _deb822(file: Path) -> list[Entry]:
    """The entries of a ``.sources`` file; see sources.list(5)."""
    entries: list[Entry] = []
    text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields = {
            name.lower(): value.strip()  # kept as it is: a Signed-By may be a whole key in many lines
            for name, value in re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes") != "no":
            lists = (fields.get(name, "").split() for name in ("uris", "suites", "components"))
            uris, suites, components = lists
            entries.append((uris, suites, components, fields.get("signed-by")))
    return entries


def _one_line(file: Path) -> list[Entry]:
    """The entries of a ``.list`` file; see sources.list(5)."""
    if not file.exists():
        return []
    entries: list[Entry] = []
    for options, uri, suite, components in re.findall(
        r"^deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$", file.read_text(), re.MULTILINE
    ):
        signed_by = re.search(r"signed-by=(\S+)", options)
        entries.append(([uri], [suite], components.split(), signed_by[1] if signed_by else None))
    return entries
