"""What is taken of a process while it stands, and how it comes to run on."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import MemdumpError
from memdump.machine.host import PAGE_SIZE
from memdump.process import inject, maps, pagemap, proc, ptrace, rescue, safety, watching
from memdump.process.architecture import restartable
from memdump.process.threads import PATIENCE, Busy, Threads
from memdump.process.watching import Watcher

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Sequence

    from memdump.process.architecture import Architecture
    from memdump.process.threads import Standing

PRECOPY, FORK, FREEZE, LIVE = "precopy", "fork", "freeze", "live"
_CLONE_FS, _CLONE_FILES, _CLONE_PARENT_SETTID = 0x200, 0x400, 0x100000
"""A copy of its own would hold files and sockets open that the process closes."""
_CLOSE_RANGE_UNSHARE = 2
_WNOHANG, _WALL = 1, 0x40000000
_WAITING = ("wait4", "waitid")
_PATIENCE, _LOOK = 1.0, 0.005
"""Seconds after which it is asked whether a copy that does not end is frozen; between looks at it."""
_TO_BE_FREED = 5.0
"""Seconds that the memory of a copy which was killed may take to be freed."""
_SOON = 0.02
"""Seconds for which a thread is waited for that is only to be left alone again."""
_CANDIDATES, _LOOKED_AT = 8, 64
"""Threads of which one is chosen to be borrowed, and of which is asked before what they wait in, at most."""
_TRIES, _ERESTARTNOINTR = 5, 513
"""To make a copy; what the kernel, within itself, says of a call that is to begin again."""
EARLY = 16 << 20
"""Bytes of mappings that are read while the processes stand, at most: a few milliseconds."""
CHANGED, _RUNS, _NEAR = 32 << 20, 4096, 16 << 10
"""Bytes of pages that were written to, and in how many runs, that are read in the stop at most; what lies
between two runs, and is read along."""
_KERNEL = 1 << 63
"""Where addresses begin that are no process's."""
_RSEQ_CS = 8
"""Where in a thread's area the sequence stands that it executes."""


class Wanted(NamedTuple):
    """A process that is to be taken."""

    pid: int
    mode: str
    early: tuple[tuple[int, int], ...] = ()
    """Mappings, start and end, that no copy of the process will hold: they are read while it stands."""
    early_shared: bool = True
    """Whether shared mappings are, too."""
    no_copy: str | None = None
    """Why no copy may be made of it."""


class Thread(NamedTuple):
    """A thread as it stood."""

    tid: int
    registers: bytes
    more: tuple[tuple[int, str, bytes], ...]
    """The other sets: type and owner of the note, content."""
    signal: int
    """What had stopped it; 0 where it was running."""
    blocked: int
    """Signals, as bits."""
    pending: int = 0
    """Signals that wait for it alone, as bits."""
    utime: int = 0
    """In ticks, a moment later; of the main thread, those of the whole process."""
    stime: int = 0


class Early(NamedTuple):
    """Addresses that were read while the process stood."""

    start: int
    size: int
    at: int
    """Where in the buffer."""


class Changes(NamedTuple):
    """What is in the private memory of a process that was watched; runs for `pagemap.runs`."""

    written: bytes
    """What was written to since it was protected last, and what is not watched and no file's."""
    empty: bytes
    """What is nowhere in memory."""
    read: tuple[Early, ...] | None
    """All that was written to, with some of its neighbours; None where that is too much for the stop."""
    unreadable: tuple[tuple[int, int], ...]
    """What of that cannot be read, start and end."""


class Captured(NamedTuple):
    """A process at one instant."""

    pid: int
    mode: str
    """The one that it came to."""
    reason: str | None
    """Why it is not the one that was asked for."""
    threads: tuple[Thread, ...]
    maps: bytes
    auxv: bytes
    stat: proc.Stat
    child: int | None
    """The process that holds the copy, in ``fork`` mode."""
    early: tuple[Early, ...]
    """Mappings."""
    changes: Changes | None
    """In ``precopy`` mode, and where it became another one."""
    pause: int
    """Nanoseconds for which it stood; in ``freeze`` mode it still does."""


class Gone(MemdumpError):
    """The process ended."""


class Unwatched(MemdumpError):
    """What a process writes cannot be watched."""


class Capture:
    """One process, from before its stop until nothing of memdump is left in it."""

    def __init__(self, wanted: Wanted, architecture: Architecture) -> None:
        self.pid = wanted.pid
        self._wanted = wanted
        self._architecture = architecture
        self._threads = Threads(wanted.pid, architecture)
        self._child: int | None = None
        self._instructions: inject.Instructions | None = None
        self._mappings: list[maps.Mapping] = []
        self._rescue: rescue.Rescue | None = None
        self._waited_in: dict[int, int | None] = {}
        self._mode = wanted.mode
        self._reason: str | None = None
        self._taken: _Taken | None = None
        self._watcher: Watcher | None = None
        self._left: list[Threads] = []
        """Those of which some did not stop when they were asked to wait for the copy."""
        self.pauses: list[int] = []
        """Nanoseconds, each time that it stood."""
        self._since = 0

    # Before the stop.

    def prepare(self) -> None:
        """Look for what is needed later and takes a while to find."""
        if self._mode in (PRECOPY, FORK):
            self._instructions = self._find()
            self._waited_in = {tid: rescue.waits_in(tid) for tid in proc.threads(self.pid)[:_LOOKED_AT]}

    def becomes(self, wanted: Wanted) -> None:
        """Say what is wanted of a process that stands already."""
        self._wanted, self._mode = wanted, wanted.mode

    def attach(self) -> None:
        """Attach to all threads, which run on."""
        while self._threads.seize():
            pass

    def _find(self) -> inject.Instructions | None:
        for tid in (self.pid, *proc.threads(self.pid)[-1:]):
            with contextlib.suppress(OSError), proc.memory(tid) as memory:
                mappings = maps.parse(proc.read(tid, "maps"))
                found = inject.find(mappings, memory, self._architecture)
                if found:
                    return found
        return None

    def watch(self) -> None:
        """From now on have the kernel note what the process writes to, for which it stands for a moment.

        Raises `Unwatched` and others; the mode is another one then.
        """
        self.prepare()
        try:
            self._watcher = Watcher(self._descriptor())
            self._watcher.watch(one for one in self._mappings if one.empty_is_zero)
        except (OSError, MemdumpError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            self.unwatch()
            self._copy_instead(f"what it writes cannot be watched: {why}")
            raise Unwatched(self._reason) from None

    def _descriptor(self) -> int:
        """Have the process make a descriptor that is ours then; raises ``OSError`` and `MemdumpError`."""
        self.attach()
        self.stop()
        try:
            self.settle(PATIENCE)
            first = self._first()
            self._mappings = maps.parse(proc.read(first, "maps"))
            with proc.memory(first) as memory:
                self._check_instructions(memory)
            suitable = self._suitable()
            if self._instructions is None or suitable is None:
                raise Unwatched("no thread of it can be lent")
            number = self._borrow(*suitable, "userfaultfd", [watching.USER_ONLY])
            if number < 0:
                raise OSError(-number, os.strerror(-number))
            try:
                return watching.taken_over(self.pid, suitable[0], number)
            finally:
                self._borrow(*suitable, "close_range", [number, number, 0])
        finally:
            self.release()

    def _borrow(self, tid: int, found: Standing, name: str, arguments: Sequence[int]) -> int:
        """Have a thread that stands make a call, and give what it returned."""
        assert self._instructions is not None
        rescued = self._rescued(tid, found, self._instructions)
        try:
            stack = rescued.frames.stack if rescued else None
            called = inject.call(tid, self._architecture, self._instructions, name, arguments, stack)
        finally:
            if rescued:
                rescued.remove()
        return called.result

    def _copy_instead(self, reason: str) -> None:
        """Take it in another mode than ``precopy``."""
        self._mode, self._reason = FORK, reason
        if self._wanted.no_copy:
            self._freeze(f"{self._wanted.no_copy}, and {reason}")

    def unwatch(self) -> None:
        """Let go of the process's memory, if it is being watched."""
        watcher, self._watcher = self._watcher, None
        if watcher:
            watcher.end()

    # The stop.

    def stop(self) -> None:
        """Ask all threads to stop."""
        self._since = time.monotonic_ns()
        self._threads.interrupt()

    def settle(self, patience: float) -> None:
        """Wait until they stand; raises `Gone` where none is left, and `Busy`."""
        self._threads.settle(patience)
        if not self._threads.standing:
            raise Gone(f"process {self._wanted.pid} has ended")

    def take(self, buffer: mmap.mmap, used: int) -> int:
        """Take what there is to take while all threads stand.

        ``used`` bytes of the buffer are taken already; gives how many are then.
        """
        first = self._first()
        self._taken = _Taken(
            threads=tuple(self._thread(tid, found) for tid, found in self._in_order()),
            maps=proc.read(first, "maps"),
            auxv=proc.read(first, "auxv"),
            stat=proc.stat(self._wanted.pid),
            early=(),
            changes=None,
        )
        if self._mode not in (PRECOPY, FORK):
            return used
        self._mappings = maps.parse(self._taken.maps)
        with proc.memory(first) as memory:
            self._check_instructions(memory)
            changes = self._changes(first, memory, buffer, used) if self._mode == PRECOPY else None
            changed = sum(found.size for found in (changes and changes.read) or ())
            wanted = self._wanted._replace(early=()) if self._mode == PRECOPY else self._wanted
            view = memoryview(buffer)[: EARLY + changed]
            early = _read_early(wanted, self._mappings, memory, view, used + changed)
            view.release()
        self._taken = self._taken._replace(early=early, changes=changes)
        return used + changed + sum(found.size for found in early)

    def _changes(self, tid: int, memory: int, buffer: mmap.mmap, used: int) -> Changes:
        """Look for what was written to since it was watched, and read it where that is quickly done."""
        own = [one for one in self._mappings if one.end < _KERNEL]
        start, end = own[0].start, own[-1].end
        pages = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            changed, other, empty = (
                pagemap.note(pages, start, end, wanted)
                for wanted in (pagemap.CHANGED, pagemap.OWN, pagemap.EMPTY)
            )
        finally:
            os.close(pages)
        read = None
        if pagemap.count(changed) + pagemap.count(other) <= _RUNS:
            runs = sorted(pagemap.spans(itertools.chain(pagemap.runs(changed), pagemap.runs(other))))
            read = _read_runs(self._mappings, runs, memory, buffer, used)
        if read is None:
            self._copy_instead("it writes to more of its memory than could be read in the stop")
        return Changes(changed + other, empty, *(read or (None, ())))

    def _check_instructions(self, memory: int) -> None:
        """Look for instructions again if they are no longer there."""
        found = self._instructions
        if not found or not inject.are_there(found, memory, self._architecture):
            self._instructions = inject.find(self._mappings, memory, self._architecture)

    def _first(self) -> int:
        return next(tid for tid, _ in self._in_order())

    def _in_order(self) -> list[tuple[int, Standing]]:
        """Give the threads, the main one first: debuggers take the first for the one that matters."""
        return sorted(self._threads.standing.items(), key=lambda one: (one[0] != self._wanted.pid, one[0]))

    def _thread(self, tid: int, found: Standing) -> Thread:
        more = []
        for kind, owner in self._architecture.of(found.registers).more:
            with contextlib.suppress(OSError):  # a set that this processor has not
                more.append((kind, owner, ptrace.registers(tid, kind)))
        blocked, pending = ptrace.blocked(tid), ptrace.pending(tid)
        return Thread(tid, found.registers, tuple(more), found.signal, blocked, pending)

    def copy(self) -> None:
        """In ``fork`` mode have the process make its copy; where it cannot, the mode becomes ``freeze``."""
        if self._mode != FORK:
            return
        suitable = self._suitable()
        if self._instructions is None or suitable is None:
            what = (
                "no thread outside of a sequence" if self._instructions else "no instruction for system calls"
            )
            self._freeze(f"it has {what} to be borrowed")
            return
        tid, found = suitable
        self._rescue = self._rescued(tid, found, self._instructions)
        arguments, stack = [_CLONE_FS | _CLONE_FILES], None
        if self._rescue:
            frames = self._rescue.frames
            arguments = [arguments[0] | _CLONE_PARENT_SETTID, frames.child, frames.pid]
            stack = frames.waiting
        try:
            returned = self._clone(tid, self._instructions, arguments, stack)
        except TimeoutError:
            self._freeze("its cgroup was frozen meanwhile")
            return
        except inject.Forced as error:
            self._freeze(str(error))
            return
        finally:
            if self._rescue:
                self._rescue.remove()
        self._child = returned.child
        if returned.child is None:
            self._freeze(_why_no_copy(-returned.result))

    def _clone(
        self, tid: int, instructions: inject.Instructions, arguments: list[int], stack: int | None
    ) -> inject.Returned:
        """Have a thread make the copy; a stop or a freezing that comes just then has it begin again."""
        for _ in range(_TRIES):
            returned = inject.call(tid, self._architecture, instructions, "clone", arguments, stack)
            if returned.result != -_ERESTARTNOINTR:
                break
        return returned

    def _rescued(self, tid: int, found: Standing, instructions: inject.Instructions) -> rescue.Rescue | None:
        """Prepare a thread that stands for the case that memdump is killed, where that is possible."""
        stack = self._place(tid, found)
        if stack is None:
            return None
        try:
            return rescue.Rescue(tid, self._architecture, instructions, self._waited_in.get(tid), stack)
        except (OSError, ValueError):
            return None

    def _place(self, tid: int, found: Standing) -> int | None:
        """Give the stack pointer below which a thread, in native code, can find what leads it back."""
        known, instructions = self._architecture, self._instructions
        if instructions is None or instructions.back is None:
            return None
        stack = known.unpack(found.registers)[known.sp]
        if rescue.has_room(self._mappings, stack):
            return stack
        standing = (one.registers for one in self._threads.standing.values() if self._is_native(one))
        others = (known.unpack(registers)[known.sp] for registers in standing)
        return rescue.unused(self._mappings, tid, [stack, *others])

    def _freeze(self, reason: str) -> None:
        self._mode, self._reason = FREEZE, reason

    def _suitable(self) -> tuple[int, Standing] | None:
        """Choose a thread to borrow: one inside a system call, or at least in no restartable sequence.

        The kernel has a thread begin such a sequence anew that was moved to another processor in it; it would
        not know that any more of one that was elsewhere meanwhile.
        """
        # A thread of a 64-bit program may be in 32-bit code for the moment.
        order = [one for one in self._in_order() if self._is_native(one[1])]
        inside = (one for one in order if self._is_in_call(*one))
        outside = (one for one in order if not _in_sequence(one[0]))
        for candidates in (inside, outside):
            some = list(itertools.islice(candidates, _CANDIDATES))
            if some:
                return min(some, key=lambda one: self._loss(*one))
        return None

    def _is_in_call(self, tid: int, found: Standing) -> bool:
        known = self._architecture
        return known.in_call(found.registers) or inject.stands_at_call(tid, known, found.registers)

    def _is_native(self, found: Standing) -> bool:
        return self._architecture.of(found.registers) is self._architecture

    def _loss(self, tid: int, found: Standing) -> int:
        """Tell what a thread would lose were memdump killed: nothing, the time that it waited, or itself."""
        if self._place(tid, found) is None:
            return 2
        return int(rescue.begins_anew(self._architecture, found.registers))

    def go_on(self) -> None:
        """Let the process run on, unless it is to stand while it is read."""
        if self._mode != FREEZE:
            self.release()

    def release(self) -> None:
        """Let all threads that stand run on."""
        if self._threads.standing:
            self._threads.release()
            self.pauses.append(time.monotonic_ns() - self._since)

    def captured(self) -> Captured:
        """Tell what was taken."""
        assert self._taken is not None
        taken = self._taken._replace(threads=tuple(map(self._with_times, self._taken.threads)))
        return Captured(
            pid=self._wanted.pid,
            mode=self._mode,
            reason=self._reason,
            child=self._child,
            pause=sum(self.pauses) or time.monotonic_ns() - self._since,
            **taken._asdict(),
        )

    def _with_times(self, thread: Thread) -> Thread:
        """Add the processor time, not asked for in the stop: it takes as long as all the rest."""
        if thread.tid == self.pid:
            stat = self._taken.stat if self._taken else None
        else:
            stat = proc.thread_stat(self.pid, thread.tid)
        return thread._replace(utime=stat.utime, stime=stat.stime) if stat else thread

    # After the stop.

    def prepare_copy(self) -> None:
        """Have the copy let go of all files, and be the first to be killed where memory is short."""
        if self._child is None or self._instructions is None:
            return
        if self._rescue:
            self._rescue.remove_from(self._child)
        with contextlib.suppress(OSError), open(f"/proc/{self._child}/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
        # Once killed it has to be gone soon: while its last pages are being freed, the kernel may look for
        # another one to kill, which would be the process.  On another processor that can still happen.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(self._child, os.SCHED_RR, os.sched_param(1))
        with contextlib.suppress(OSError):
            # It shared the files; with this it has a table of its own, with nothing in it.
            inject.call(
                self._child,
                self._architecture,
                self._instructions,
                "close_range",
                [0, 0xFFFFFFFF, _CLOSE_RANGE_UNSHARE],
                options=inject.OF_COPY,
            )

    @property
    def child(self) -> int | None:
        """The process that holds the copy."""
        return self._child

    def end(self) -> str | None:
        """Leave nothing behind; gives what could not be done, if anything."""
        self.release()
        self.unwatch()
        child, self._child = self._child, None
        if child is None:
            return None
        remains = f"its copy {child} remains as a zombie until it ends"
        try:
            if not _kill(child):
                return f"its copy {child} ends, and remains as a zombie, when its cgroup is thawed"
            try:
                why = self._reap(child)
            finally:
                # It may be no more, and its id another one's: it must not be killed again.
                inject.bury(child)
            return f"{remains}: {why}" if why else None
        except (OSError, MemdumpError) as error:
            return f"{remains} ({error})"

    def reap_left(self, child: int) -> None:
        """Have the process wait for a copy that ends because its guardian, another one, was killed."""
        end = time.monotonic() + _TO_BE_FREED
        with contextlib.suppress(OSError, ValueError, MemdumpError):
            while (found := proc.stat(child)).state not in "ZX":
                if time.monotonic() > end:
                    return
                time.sleep(_LOOK)
            if found.exit_signal == 0:  # else the copy is no more, and its id another one's
                self._reap(child)

    def _reap(self, child: int) -> str | None:
        """Have the process wait for its copy, which has ended: the kernel keeps it until then."""
        if not _is_child(child, self._wanted.pid):
            return None  # the process has ended, and whoever has inherited the copy reaps it
        if safety.is_frozen(self._wanted.pid):
            return "its cgroup is frozen"
        filtered, later = False, []
        for tid in sorted(proc.threads(self._wanted.pid), key=self._time_lost):
            try:
                found = proc.status(tid)
            except OSError:
                continue
            if found.state in "ZX":  # the main thread, which ended before the others
                continue
            if found.number("Seccomp"):
                filtered = True
                continue
            # Of one that is just waking from our first stop, what it waited in before is known.
            self._waited_in[tid] = rescue.waits_in(tid) or self._waited_in.get(tid)
            if found.state == "D":
                later.append(tid)
                continue
            if self._reap_by(tid, child, self._may_wait) or self._reap_by(tid, child):
                return None
        # One that waits for a device may take long to stop, and no other is to stand for that.
        if any(self._reap_by(tid, child) for tid in later[:_CANDIDATES]):
            return None
        return "it has a seccomp filter now" if filtered else "no thread could be stopped"

    def _time_lost(self, tid: int) -> int:
        """Tell whether the call that a thread waits in begins anew for a stop: never, perhaps, always."""
        number = _call_of(tid)
        if number in self._architecture.begin_anew:
            return 2
        return int(number in restartable(self._architecture) or number in self._architecture.timed)

    def _may_wait(self, tid: int) -> bool:
        """Whether a thread may find the copy that has ended before it is taken away.

        One that sleeps in another call would have to wake and to wait in the microseconds that this takes.
        """
        number = _call_of(tid)
        return number is None or number in self._architecture.numbers_of(_WAITING)

    def _reap_by(self, tid: int, child: int, others: Callable[[int], bool] | None = None) -> bool:
        """Have one thread wait, while those stand too that ``others`` tells; whether it did."""
        attached = {one for threads in self._left for one in threads.moving}
        if tid in attached:
            return False

        def wants(one: int) -> bool:
            return one == tid or bool(others and one not in attached and others(one))

        threads = Threads(self._wanted.pid, self._architecture, wants)
        try:
            threads.seize()
            return self._reap_with(threads, tid, child)
        finally:
            self._leave(threads)

    def _reap_with(self, threads: Threads, tid: int, child: int) -> bool:
        since = time.monotonic_ns()
        threads.interrupt()
        try:
            threads.settle()
            found = threads.standing.get(tid)
            if found is None or not self._can_wait(tid, found):
                return False
            inject.bury(child)  # only now its parent can see it
            return self._wait_in(tid, found, child)
        except Busy:
            return False
        finally:
            threads.release()
            self.pauses.append(time.monotonic_ns() - since)

    def _leave(self, threads: Threads) -> None:
        """Leave threads alone, as far as they stop soon; `leave` does so with the others."""
        threads.interrupt()
        end = time.monotonic() + _SOON
        while not threads.leave():
            if time.monotonic() > end:
                self._left.append(threads)
                return
            signal.sigtimedwait([signal.SIGCHLD], _LOOK)

    def leave(self) -> bool:
        """Leave those threads alone that have stopped too late; whether none is left that may do so yet."""
        self._left = [threads for threads in self._left if not threads.leave()]
        return not self._left

    def _can_wait(self, tid: int, found: Standing) -> bool:
        if not self._is_native(found):
            return False
        return self._is_in_call(tid, found) or not _in_sequence(tid)

    def _wait_in(self, tid: int, found: Standing, child: int) -> bool:
        self._mappings = maps.parse(proc.read(tid, "maps"))
        with proc.memory(tid) as memory:
            self._check_instructions(memory)
        if self._instructions is None:
            return False
        return self._borrow(tid, found, "wait4", (_in_its_namespace(child), 0, _WNOHANG | _WALL)) != 0


class _Taken(NamedTuple):
    threads: tuple[Thread, ...]
    maps: bytes
    auxv: bytes
    stat: proc.Stat
    early: tuple[Early, ...]
    changes: Changes | None


def _read_runs(
    mappings: Iterable[maps.Mapping],
    runs: Sequence[tuple[int, int]],
    memory: int,
    buffer: mmap.mmap,
    used: int,
) -> tuple[tuple[Early, ...], tuple[tuple[int, int], ...]] | None:
    """Read runs of pages, start and end, of private memory; gives those, too, that cannot be read.

    None where that is too much.
    """
    found: list[Early] = []
    failed: list[tuple[int, int]] = []
    end_at = used + CHANGED
    left = [
        span
        for one in mappings
        if not one.shared
        for span in pagemap.joined(pagemap.inside(runs, one.start, one.end), _NEAR)
    ][::-1]
    while left:
        start, end = left.pop()
        size = end - start
        if used + size > end_at:
            return None
        with memoryview(buffer)[used : used + size] as view:
            try:
                whole = os.preadv(memory, [view], start) == size
            except OSError:
                whole = False
        if whole:
            found.append(Early(start, size, used))
            used += size
        elif size > PAGE_SIZE:
            half = start + size // 2 // PAGE_SIZE * PAGE_SIZE
            left += [(half, end), (start, half)]
        else:
            failed.append((start, end))
    return tuple(found), tuple(failed)


def _read_early(
    wanted: Wanted, mappings: list[maps.Mapping], memory: int, buffer: memoryview, used: int
) -> tuple[Early, ...]:
    """Read what no copy of the process will hold as it is now, as far as the buffer has room."""
    early, found = set(wanted.early), []
    for mapping in sorted(mappings, key=lambda one: one.size):
        if not (mapping.shared and wanted.early_shared) and (mapping.start, mapping.end) not in early:
            continue
        if used + mapping.size > len(buffer):
            break
        view = buffer[used : used + mapping.size]
        try:
            if os.preadv(memory, [view], mapping.start) == mapping.size:
                found.append(Early(mapping.start, mapping.size, used))
                used += mapping.size
        except OSError:  # of a device, perhaps; reading it later will tell
            continue
        finally:
            view.release()
    return tuple(found)


def _in_sequence(tid: int) -> bool:
    """Whether a thread is in a restartable sequence (kernel, ``include/uapi/linux/rseq.h``)."""
    area = ptrace.rseq_area(tid)
    if not area:
        return False
    with proc.memory(tid) as memory:
        try:
            return os.pread(memory, 8, area + _RSEQ_CS) != bytes(8)
        except OSError:
            return True


def _why_no_copy(number: int) -> str:
    if number == errno.EAGAIN:
        return "it may not have another process (RLIMIT_NPROC or the pids limit of its cgroup)"
    if number == errno.ENOMEM:
        return "the system does not commit its memory twice"
    if number == _ERESTARTNOINTR:
        return "signals came whenever it was to be copied"
    return f"it could not be copied: {os.strerror(number)}"


def _is_child(child: int, pid: int) -> bool:
    try:
        return proc.stat(child).parent == pid
    except (OSError, ValueError):
        return False


def _in_its_namespace(pid: int) -> int:
    """Give a process's id as its parent knows it, which may live in a namespace of its own."""
    words = proc.status(pid).fields.get("NSpid", str(pid)).split()
    return int(words[-1])


def _kill(child: int) -> bool:
    """End a copy so that nobody but its tracer knows yet; False where it ends only when it is thawed.

    What it had takes its time to be freed, and meanwhile the process runs.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    start = time.monotonic()
    with contextlib.suppress(ChildProcessError):
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG | _WALL):
            signal.sigtimedwait([signal.SIGCHLD], _LOOK)
            if time.monotonic() - start > _PATIENCE and safety.is_frozen(child):
                return False
    return True


def _call_of(tid: int) -> int | None:
    """Give the number of the system call that a thread waits in; None where it waits in none."""
    found = proc.call(tid)
    return found.number if found else None
