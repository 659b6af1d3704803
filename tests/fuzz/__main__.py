"""`python -m fuzz`: give damaged files to the readers; exit status 1 if one fails."""

from __future__ import annotations

import argparse
import faulthandler
import sys
from pathlib import Path

from boxwright.progress import Progress
from fuzz.readers import READERS
from fuzz.run import Tally, feed, prepared, report, run


def main() -> int:
    names = [reader.name for reader in READERS]
    options = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    options.add_argument("--count", type=int, default=50_000, help="files for all readers together")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, help="end after so long")
    options.add_argument("--readers", nargs="*", choices=names, metavar="NAME", help=", ".join(names))
    options.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="a folder for files that fail")
    options.add_argument("--file", type=Path, help="give this file to the readers instead, and show what comes")
    given = options.parse_args()
    readers = [reader for reader in READERS if not given.readers or reader.name in given.readers]
    faulthandler.enable()  # a crash inside a library ends the process
    if given.file:
        tallies = {}
        for reader in readers:
            with prepared(reader) as (folder, _):
                tallies[reader.name] = tally = Tally()
                feed(reader, folder, given.file.read_bytes(), tally, folder / "kept")
                for kept in tally.kept.values():
                    print(Path(f"{kept}.txt").read_text(encoding="utf-8"))
    else:
        each = -(-given.count // len(readers))
        with Progress("fuzz", each * len(readers)) as progress:
            tallies = run(readers, given.count, given.seed, given.seconds, given.out, progress.update)
    print(report(tallies))
    return 1 if any(tally.failures for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
