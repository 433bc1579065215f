"""How an answer is shown: one kind of output per file, each against any table.

An answer is its columns (`memdump.tables.schema.Column`) and rows, each a sequence with a value per column.
"""

FORMATS = ("table", "json", "jsonl", "csv", "parquet")
"""The formats of rows, as the commands spell them; the first is for people."""
READABLE = 100
"""Columns that people can be expected to have where it is not known what they have."""
