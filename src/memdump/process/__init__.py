"""The memory of one process, with the least pause; standard library only, Python 3.8."""
