"""``make bench``: everything that is compared with TRL. Files named on the command line are preference data to use."""

from __future__ import annotations

from benchmarks.preparation import main

main()
