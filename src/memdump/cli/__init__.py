"""How memdump is asked: one file per command, with nothing but its arguments and one call.

A command module has ``SUMMARY`` (one line), ``EXAMPLE`` (a command line), ``add_arguments(parser)`` and
``run(args) -> int`` (the exit status).  Only the chosen command's module is imported, which keeps the start quick.
"""
