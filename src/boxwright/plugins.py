"""Modules of users that register detectors and backbones, so that commands and checkpoints know them.

They are named by --plugin, by $BOXWRIGHT_PLUGINS (separated as in $PATH) or, in an installed package, by an entry point
of the group "boxwright.plugins"; in Python, importing them is enough. A checkpoint names the module that it needs, and
never runs it.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

VARIABLE = "BOXWRIGHT_PLUGINS"
GROUP = "boxwright.plugins"

What = Literal["detector", "backbone"]

_SESSION = "__main__"  # of Python, or a notebook

_modules: dict[tuple[What, str], str] = {}  # what is registered: the module that did it
_files: dict[str, str] = {}  # of these modules, where they have one
_options: dict[str, str] = {}  # by module: the value of --plugin, or of the variable, that loaded it
_loading: list[str] = []  # the values whose modules are being imported


def claim(what: What, name: str, taken: bool) -> None:
    """Keep which module registers this name: the one outside of boxwright that is calling.

    A module may register a name again, as when a notebook's cell is run twice. Raises ValueError where boxwright itself
    has the name (`taken`), or another module has registered it.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals):
        frame = frame.f_back
    module, file = frame.f_globals.get("__name__", _SESSION), frame.f_globals.get("__file__")
    file = None if file is None else str(Path(file).resolve())
    if module == _SESSION and file:
        module = Path(file).stem
    if taken:
        raise ValueError(f"boxwright itself has a {what} {name!r}; give that of {_source(module, file)} another name")
    before = _modules.get((what, name), module)
    if before != module and (file is None or file != _files.get(before)):
        raise ValueError(
            f"{_source(before, _files.get(before))} and {_source(module, file)} both register a {what} {name!r}; "
            "rename one of the two, or load only one"
        )
    _modules[what, name] = module
    if file is not None:
        _files[module] = file
    if _loading:
        _options[module] = _loading[-1]


def _is_ours(names: Mapping[str, Any]) -> bool:
    """Whether these are the global names of a module of boxwright."""
    return names.get("__name__", "").partition(".")[0] == "boxwright"


def _source(module: str, file: str | None) -> str:
    """A module in an error: "my_detector (/home/me/my_detector.py)"."""
    return "this session" if module == _SESSION else f"{module} ({file})" if file else module


def module_of(what: What, name: str) -> str | None:
    """The module that registered this name; None for what comes with boxwright, or is not known."""
    return _modules.get((what, name))


def load(plugin: str) -> None:
    """Import a module that registers detectors or backbones: a Python file, or the name of a module.

    Raises ValueError where there is no such module, it fails, or it registers nothing.
    """
    path = Path(plugin)
    file = path.suffix == ".py" or len(path.parts) > 1
    if file and not path.is_file():
        raise ValueError(f"there is no plugin {plugin}; expected a Python file, or the name of a module")
    name, folder = (path.stem, path.resolve().parent) if file else (plugin, Path.cwd())
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that nothing of boxwright or Python is replaced
    imported = name in sys.modules
    _loading.append(plugin)
    try:
        module = import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise ValueError(f"there is no plugin {plugin}; expected a Python file, or the name of a module") from None
        raise ValueError(f"the plugin {plugin} fails with {type(error).__name__}: {error}{_line(error)}") from error
    finally:
        _loading.pop()
    found = getattr(module, "__file__", None)
    if file and (found is None or not Path(found).samefile(path)):
        raise ValueError(f"the plugin {plugin} has the name of the module {name} ({found}); rename the file")
    if not imported and name not in _modules.values():
        raise ValueError(
            f"the plugin {plugin} registers nothing; call boxwright.register(NAME, CONFIG) or "
            "boxwright.register_backbone(NAME, NETWORK) in it"
        )
    _options.setdefault(name, plugin)


def refuse_while_loading(call: str) -> None:
    """Raises ValueError where a plugin makes this call while it is imported: every process that loads it would."""
    if _loading:
        raise ValueError(
            f"{call} runs while this file is imported as a plugin; put it under if __name__ == '__main__':"
        )


def _line(error: Exception) -> str:
    """Where in the plugin: the innermost line that is neither of boxwright nor of an import."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and not _is_ours(trace.tb_frame.f_globals):
            line = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return "" if isinstance(error, SyntaxError) else line  # it names its line itself


@cache
def discover() -> None:
    """Load the plugins of $BOXWRIGHT_PLUGINS and of installed packages, once; a package that fails is a warning."""
    for plugin in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load(plugin)
    for point in _entry_points():
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"the installed plugin {point.value} fails with {type(error).__name__}: {error}", stacklevel=2
            )


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # slow to import

    return entry_points(group=GROUP)


def for_new_process() -> str:
    """The value of $BOXWRIGHT_PLUGINS for a process that loads this one's checkpoints.

    It lacks what a session or notebook registers, which no other process can import (`of_session`).
    """
    modules = (_file_or_module(module) for module in dict.fromkeys(_modules.values()) if module != _SESSION)
    return os.pathsep.join(filter(None, dict.fromkeys([os.environ.get(VARIABLE, ""), *modules])))


def adopt(value: str) -> None:
    """Load in this process what `for_new_process` gave in another."""
    os.environ[VARIABLE] = value
    discover.cache_clear()
    discover()


def of_session(modules: Iterable[str]) -> bool:
    """Whether one of these is the session or notebook itself."""
    return _SESSION in modules


def options(modules: Iterable[str]) -> str:
    """What a command needs to load these modules, such as " --plugin my_detector.py"; empty for what needs nothing."""
    installed = {point.module.partition(".")[0] for point in _entry_points()}
    named = (module for module in modules if module.partition(".")[0] not in installed)
    plugins = dict.fromkeys(_options.get(module) or _file_or_module(module) for module in named)
    return "".join(f" --plugin {shlex.quote(plugin)}" for plugin in plugins)


def _file_or_module(module: str) -> str:
    """What `load` takes in any process: the file, unless the module is a package or in one."""
    file = _files.get(module)
    return file if file is not None and Path(file).stem == module else module


def mend(module: str) -> str:
    """How to make known what this module registers."""
    if module == _SESSION:
        return "it was registered in a session or notebook: run those lines first, or move them into a file"
    return f"import {module} first; commands take it as --plugin {module}, or with the path of its file"
