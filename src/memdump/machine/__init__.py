"""How the memory of a whole machine is had: sources, and the steps from them to a file.

Imports only the standard library, and keeps to Python 3.8: it runs on hosts where nothing is installed.
"""
