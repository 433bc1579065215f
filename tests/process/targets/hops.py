"""The same with CPython's threads: queues, and a lock that all of them want."""

from __future__ import annotations

import queue
import sys
import threading
import time

TOKENS = 8
THREADS = 8
places: list[queue.SimpleQueue[tuple[int, int]]] = [queue.SimpleQueue() for _ in range(THREADS)]
counts = [0] * TOKENS
longest = [0] * THREADS


def hand_on(number: int) -> None:
    while True:
        token, sent = places[number].get()
        longest[number] = max(longest[number], time.monotonic_ns() - sent)
        counts[token] += 1
        time.sleep(0.0002)
        places[(number * 3 + counts[token]) % THREADS].put((token, time.monotonic_ns()))


for number in range(THREADS):
    threading.Thread(target=hand_on, args=(number,), daemon=True).start()
for token in range(TOKENS):
    places[token].put((token, time.monotonic_ns()))
print("ready", flush=True)
while sys.stdin.read(1):
    print(max(longest), sum(counts), min(counts), 0, flush=True)
    longest[:] = [0] * THREADS
