"""``python -m octify`` is ``octify``."""

from __future__ import annotations

import sys

from octify.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
