"""The table of commands, printed by `boxwright --help`; a command's module is imported when it is chosen.

A command is a frozen dataclass: each field is one option, declared once with its type, default and help, and `run()`
does the work and returns the exit status (None is 0). Two more functions of the command line's words are optional:
`defaults(words)`, the options that are not given, and `explain(word, words)`, why a word is not understood.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from boxwright import plugins
from boxwright.heap import keep_heap
from boxwright.terminal import say
from boxwright.units import printable
from boxwright.version import __version__


class Command(NamedTuple):
    """The module and name of a command's dataclass, its line in `boxwright --help`, and its most important options.

    `boxwright NAME --help` shows these options, `--help-all` all; () shows all at once.
    """

    module: str
    name: str
    help: str
    first: tuple[str, ...] = ()


COMMANDS = {
    "detect": Command(
        "boxwright.cli.detect", "Detect", "find objects in images, folders and globs",
        ("model", "threshold", "classes", "out", "json"),
    ),
    "train": Command(
        "boxwright.cli.train", "Train", "train a detector on your own data",
        ("data", "from", "epochs", "size", "resume"),
    ),
    "evaluate": Command(
        "boxwright.cli.evaluate", "Evaluate", "score a detector on annotated data",
        ("data", "split", "batch", "plot", "json"),
    ),
    "data check": Command("boxwright.cli.data", "Check", "name what is wrong in a dataset, where, and how to mend it"),
    "data show": Command(
        "boxwright.cli.data", "Show", "draw samples of a dataset with their boxes",
        ("out", "samples", "split", "augmented", "format"),
    ),
    "data stats": Command(
        "boxwright.cli.data_stats", "Statistics", "count classes, sizes and shapes, and compare splits"
    ),
    "data convert": Command("boxwright.cli.data_convert", "Convert", "write a dataset as COCO, VOC or YOLO"),
    "data split": Command(
        "boxwright.cli.data_split", "Split", "draw train, val and test, and keep them",
        ("out", "val-fraction", "test-fraction", "form", "images"),
    ),
    "data merge": Command("boxwright.cli.data_merge", "Merge", "make one dataset of several, by class name"),
    "propose": Command(
        "boxwright.cli.propose", "Propose", "search images for regions that may be objects",
        ("mode", "count", "out", "draw", "workers"),
    ),
    "bench": Command(
        "boxwright.cli.bench", "Bench", "race detectors on your data: which one should you take?",
        ("data", "detectors", "budget", "constraint", "dry-run"),
    ),
    "lineage": Command(
        "boxwright.cli.lineage", "Lineage", "compare R-CNN to a single stage on your data",
        ("data", "steps", "out", "epochs", "budget"),
    ),
    "import": Command(
        "boxwright.cli.import_", "Import", "convert weights of torchvision or Detectron2, with proof",
        ("out", "names", "photos", "answers", "json"),
    ),
    "verify": Command("boxwright.cli.verify", "Verify", "repeat the proof in an imported model"),
    "models": Command("boxwright.cli.models", "Models", "list the models at hand"),
    "completion": Command("boxwright.cli.completion", "Completion", "complete commands and options in your shell"),
}  # fmt: skip

USER_ERRORS = (ValueError, OSError, ImportError)
"""Errors that a user can cause and fix: bad data or options, a missing file, an extra that is not installed."""


_SYSTEM = (
    (
        r"DataLoader worker .*(killed|exited)",
        "a process that loads images was ended from outside, as the system does where memory runs out; take fewer "
        "--workers or a smaller --batch, or --workers 0 where there is little shared memory",
    ),
    (
        r"shared memory object|file </torch_",
        "the shared memory is full; take --workers 0, or give the container more (docker run --shm-size)",
    ),
    (
        r"start new thread|resource temporarily unavailable",
        "the system starts no more threads or processes; take fewer --workers, or allow more (ulimit -u, ulimit -v)",
    ),
    (
        r"too many open files",
        "the system opens no more files for this process; take fewer --workers, or allow more (ulimit -n)",
    ),
    (
        r"^\[Errno 2\] No such file or directory$",  # of os.getcwd; all others name the file
        "the folder that this command runs in was removed; change to another",
    ),
    (
        r"symlink loop",  # as Path.resolve says before Python 3.13
        "the path is a link that leads back to itself; remove it, or give another path",
    ),
    (
        r"out of memory|allocate memory|failed to map segment|bad[ _]alloc|not enough memory",
        "the memory is not enough; take a smaller --batch or --size or fewer --workers, or allow more (ulimit -v)",
    ),
)
"""What the system does to a process or refuses it, by the messages of Python and PyTorch, and how to mend it."""


class UsageError(ValueError):
    """The command line is not understood: exit status 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 not understood.

    arguments  those of the process if not given; it also keeps the heap then (`boxwright.keep_heap`)
    """
    if arguments is None:
        keep_heap()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or os.environ.get("BOXWRIGHT_DEBUG", "0") not in ("", "0")
    if sys.stdout is None:  # closed, as by >&- in a shell; libraries expect a stream
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the terminal does not have is ?, and no error
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            return _dispatch(words, debug)
        finally:
            print(end="", flush=True)  # here, not at exit, where an error could no longer be handled
    except OSError as error:  # of stdout, as `_dispatch` handles all others
        if debug and not isinstance(error, BrokenPipeError):
            raise
        _leave_stdout()
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has closed the pipe
            return 0
        say(f"boxwright: {_of_stdout(error)}")
        return 1


def _leave_stdout() -> None:
    """What could not be written is forgotten, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_stdout(error: OSError) -> str:
    return f"standard output cannot be written ({error.strerror}); make room on its disk, or send it elsewhere"


def _dispatch(words: list[str], debug: bool) -> int:
    words, named = _without_plugins([word for word in words if word != "--debug"])
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "--help-all"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"boxwright {__version__}")
        return 0
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        return _unknown_command(words)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what matters is in our errors
    warnings.formatwarning = (  # without a line of source code
        lambda message, *_: f"boxwright {name}: {printable(str(message))}\n"
    )
    try:
        for plugin in named:
            plugins.load(plugin)
        plugins.discover()
        return _run(name, words[len(name.split()) :])
    except KeyboardInterrupt as error:
        say(f"\nboxwright: {_with_notes('stopped', error)}")
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug or not (isinstance(error, USER_ERRORS) or _fault(error)):
            raise
        say(f"boxwright {name}: {_message(error)}")
        return 2 if isinstance(error, UsageError) else 1


def _without_plugins(words: list[str]) -> tuple[list[str], list[str]]:
    """The words without --plugin, which every command takes, and its values."""
    rest, named = [], []
    remaining = iter(words)
    for word in remaining:
        option, _, value = word.partition("=")
        if option != "--plugin":
            rest.append(word)
        else:
            named.append(value or next(remaining, ""))
    return rest, named


def _message(error: Exception) -> str:
    text = _fault(error) or str(error)
    if re.match("Caught .* in DataLoader worker process", text):  # PyTorch then adds the traceback of the worker
        text = text.rstrip().splitlines()[-1].partition(": ")[2]
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"  # without Python's [Errno 13]
    elif isinstance(error, OSError) and error.filename is None:
        try:
            print(flush=True)  # a flush alone may succeed, as the end of a long text is not kept
        except OSError as lost:
            _leave_stdout()
            text = _of_stdout(lost)
    return _with_notes(text, error)


def _with_notes(text: str, error: BaseException) -> str:
    return "; ".join([text, *getattr(error, "__notes__", [])])


def _fault(error: Exception) -> str:
    """What the system did to this process, and how to mend it; "" for any other error."""
    if not isinstance(error, (MemoryError, RuntimeError, OSError, ImportError)):
        return ""
    text = f"out of memory {error}" if isinstance(error, MemoryError) else str(error)
    cause = next((cause for pattern, cause in _SYSTEM if re.search(pattern, text, re.IGNORECASE)), "")
    return f"{cause} ({text.splitlines()[0].strip()})" if cause else ""


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    command = COMMANDS[name]
    kind = getattr(import_module(command.module), command.name)
    if {"-h", "--help"} & set(arguments):
        from boxwright.cli.helping import short_help

        print(short_help(name, kind, command.first, arguments))
        return 0
    arguments = ["--help" if word == "--help-all" else word for word in arguments]
    read = partial(tyro.cli, kind, prog=f"boxwright {name}", config=(tyro.conf.FlagCreatePairsOff,))
    if hasattr(kind, "defaults"):
        read = partial(read, default=kind.defaults(arguments))
    options, unknown = read(args=arguments, return_unknown_args=True)
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        raise UsageError(_not_understood(name, kind, word, arguments))
    limit = getattr(options, "max_megapixels", None)
    if limit is None:
        return options.run() or 0
    from boxwright.data.image import limit_megapixels

    with limit_megapixels(limit):
        return options.run() or 0


def _not_understood(name: str, kind: Any, word: str, arguments: list[str]) -> str:
    """The message for a word that is not understood, with the options of similar names or of the same meaning."""
    explained = kind.explain(word, arguments) if hasattr(kind, "explain") else None
    if explained:
        return explained
    if not word.startswith("-"):
        return f"'{word}' is not understood; `boxwright {name} --help` explains what the command takes"
    from boxwright.cli.helping import names_of
    from boxwright.cli.synonyms import SYNONYMS

    options, option = names_of(kind, arguments), word.lstrip("-").replace("_", "-")
    meant = next((ours for ours in SYNONYMS.get(option, ()) if ours in options), None)
    if meant is not None:
        return f"there is no option {word}; it is --{meant} here, which `boxwright {name} --help-all` explains"
    near = [f"--{found}" for found in get_close_matches(option, sorted(set(options)), n=3)]  # dashes make all alike
    hint = f"did you mean {' or '.join(near)}?" if near else f"`boxwright {name} --help-all` lists the options"
    return f"there is no option {word}; {hint}"


def usage() -> str:
    """The text of `boxwright --help`."""
    end = (
        "boxwright COMMAND --help shows its main options, and --help-all all of them.\n"
        "With --debug an error is shown with its traceback. --plugin FILE, with any\n"
        "command, loads a Python file that registers detectors or backbones of your own."
    )
    return "\n".join(["usage: boxwright COMMAND ...", "", *_lines(list(COMMANDS)), "", end])


def _lines(names: list[str]) -> list[str]:
    width = max(map(len, names))
    return [f"  {name:<{width}}  {COMMANDS[name].help}" for name in names]


def _unknown_command(words: list[str]) -> int:
    group = [name for name in COMMANDS if name.split()[0] == words[0]]  # `data` alone, or `data --help`
    if group and words[1:2] in ([], ["-h"], ["--help"], ["--help-all"]):
        print("\n".join([f"usage: boxwright {words[0]} COMMAND ...", "", *_lines(group)]))
        return 0 if words[1:] else 2
    name = " ".join(words[:2] if group else words[:1])
    near = get_close_matches(name, group or COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(group or COMMANDS)}."
    say(f"boxwright: there is no command '{name}'; {hint}")
    return 2
