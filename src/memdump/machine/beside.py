"""Doing one thing beside another, for the work that lets other threads run: reading, writing, hashing."""

import queue
import threading
from typing import Callable, Optional


class Beside:
    """A thread that does one thing after the other for the thread that made it.

    This is all that is needed of ``concurrent.futures``, which would bring ``logging`` and more along into a
    machine whose memory should change as little as possible.
    """

    def __init__(self, name: str) -> None:
        self._todo: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Optional[BaseException]] = queue.SimpleQueue()
        self._begun = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, action: Callable[[], None]) -> None:
        """Begin ``action``, after those that were begun before."""
        self._begun += 1
        self._todo.put(action)

    def wait(self, left: int = 0) -> None:
        """Wait until no more than ``left`` of what was begun is not done; raises what one of them raised."""
        while self._begun > left:
            error = self._done.get()
            self._begun -= 1
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
