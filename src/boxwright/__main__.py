"""`python -m boxwright` is the `boxwright` command."""

from __future__ import annotations

import sys

from boxwright.cli import main

sys.exit(main())
