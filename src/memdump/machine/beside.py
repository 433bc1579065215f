"""Doing one thing beside another, for the work that lets other threads run: reading, writing, hashing."""

import queue
import threading
from typing import Callable, Optional


class Beside:
    """A thread that does one thing at a time for the thread that made it.

    This is all that is needed of ``concurrent.futures``, which would bring ``logging`` and more along into a
    machine whose memory should change as little as possible.
    """

    def __init__(self, name: str) -> None:
        self._todo: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Optional[BaseException]] = queue.SimpleQueue()
        self._busy = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, action: Callable[[], None]) -> None:
        """Begin ``action``; the one before it must have been waited for."""
        self._busy = True
        self._todo.put(action)

    def wait(self) -> None:
        """Wait for what was begun, if anything was; raises what it raised."""
        if self._busy:
            error = self._done.get()
            self._busy = False
            if error is not None:
                raise error

    def close(self) -> None:
        """Wait, as `wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self._todo.put(None)
            self._thread.join()

    def _work(self) -> None:
        while True:
            action = self._todo.get()
            if action is None:
                return
            failure: Optional[BaseException] = None
            try:
                action()
            except BaseException as error:  # raised again by `wait`
                failure = error
            del action  # what it holds is the caller's again when `wait` returns
            self._done.put(failure)
