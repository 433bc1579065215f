"""Why did it crash?  The core of a process, or the memory of a machine whose kernel panicked, in words.

A core is hostile: whoever made the process crash chose what is in it.  Whatever is read of it is bounded, and
text of it reaches a terminal only through `memdump.report.text`.
"""
