"""`python -m slt.cli` is the command `slt`."""

import sys

from slt.cli import main

sys.exit(main())
