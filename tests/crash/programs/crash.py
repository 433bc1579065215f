"""Crashes inside of C, with other threads waiting."""

import ctypes
import threading


def deep(number: int) -> bytes:
    note = "hello"
    if number:
        return deep(number - 1)
    return crash(note)


def crash(word: str) -> bytes:
    return ctypes.string_at(len(word) - 5)


def waiting(event: threading.Event, started: threading.Semaphore) -> None:
    started.release()
    event.wait()


event = threading.Event()
started = threading.Semaphore(0)
for _ in range(3):
    threading.Thread(target=waiting, args=(event, started), daemon=True).start()
    started.acquire()
threading.Event().wait(0.3)
deep(3)
