"""All benchmarks, each after the meaning of its numbers: `python benchmarks/everything.py --rounds 3`."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
SCRIPTS = (
    ("versus_torchvision.py", "--rounds", "{rounds}", "--out", "{out}"),
    ("inference_form.py", "--rounds", "{rounds}"),
    ("data_loading.py", "--images", "100", "--workers", "0", "1", "--rounds", "{rounds}", "--out", "{out}"),
    ("evaluator.py", "--rounds", "{rounds}", "--out", "{out}"),
    ("readers.py", "--rounds", "{rounds}", "--out", "{out}"),
    ("selective_search.py", "--out", "{out}"),
    ("gpu.py",),
    ("gpu_check.py",),
)


def meaning(script: str) -> str:
    """What a script's docstring says, without its examples."""
    docstring = ast.get_docstring(ast.parse((FOLDER / script).read_text(encoding="utf-8"))) or ""
    return "\n\n".join(part for part in docstring.split("\n\n") if not part.startswith("    "))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default="3", help="how often each side is timed")
    parser.add_argument("--out", default="build/benchmarks.json", help="the table of all rows")
    options, failed, started = parser.parse_args(), [], time.monotonic()
    for script, *arguments in SCRIPTS:
        print(f"\n== {script}\n\n{meaning(script)}\n", flush=True)
        words = [word.format(rounds=options.rounds, out=options.out) for word in arguments]
        if subprocess.run([sys.executable, "-W", "ignore", FOLDER / script, *words]).returncode:
            failed.append(script)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. The table is in {options.out}")
    if failed:
        print(f"not finished: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
