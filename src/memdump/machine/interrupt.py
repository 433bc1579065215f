"""Being asked to stop in the middle, without leaving a mess."""

import signal
from types import FrameType, TracebackType
from typing import Any, Dict, Optional, Type


class Interrupt:
    """Inside the ``with`` block, a first signal to end is only noted, so that work can stop at a good place.

    A second one ends the program at once.  Signals that are ignored already (``nohup``) stay so.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: Optional[str] = None
        """Name of the signal that came."""
        self._before: Dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in self.SIGNALS:
            before = signal.getsignal(number)
            if before != signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._restore()

    def _note(self, number: int, _frame: Optional[FrameType]) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
