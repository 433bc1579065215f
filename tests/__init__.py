"""The tests; each folder is that of the part of memdump that it tests."""
