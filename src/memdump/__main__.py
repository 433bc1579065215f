"""``python -m memdump`` is the ``memdump`` command."""

import sys

from memdump.cli import main

sys.exit(main())
