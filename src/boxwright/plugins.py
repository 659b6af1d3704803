"""Modules of users that register detectors and backbones, so that commands and checkpoints know them.

They are named by --plugin, by $BOXWRIGHT_PLUGINS (separated as in $PATH) or, in an installed package, by an entry point
of the group "boxwright.plugins"; in Python, importing them is enough. A checkpoint names the module that it needs, and
never runs it.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

VARIABLE = "BOXWRIGHT_PLUGINS"
GROUP = "boxwright.plugins"

What = Literal["detector", "backbone"]

_modules: dict[tuple[What, str], str] = {}  # what is registered: the module that did it
_options: list[str] = []  # of `load`, as they were given


def note(what: What, name: str) -> None:
    """Keep which module registers this name: the one outside of boxwright that is calling."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "boxwright":
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "__main__")
    file = frame.f_globals.get("__file__")
    _modules[what, name] = Path(file).stem if module == "__main__" and file else module


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
    try:
        module = import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise ValueError(f"there is no plugin {plugin}; expected a Python file, or the name of a module") from None
        raise ValueError(f"the plugin {plugin} fails with {type(error).__name__}: {error}{_line(error)}") from error
    found = getattr(module, "__file__", None)
    if file and (found is None or not Path(found).samefile(path)):
        raise ValueError(f"the plugin {plugin} has the name of the module {name} ({found}); rename the file")
    if not imported and name not in _modules.values():
        raise ValueError(
            f"the plugin {plugin} registers nothing; call boxwright.register(NAME, CONFIG) or "
            "boxwright.register_backbone(NAME, NETWORK) in it"
        )
    if plugin not in _options:
        _options.append(plugin)


def _line(error: Exception) -> str:
    """Where in the plugin: the innermost line that is not of an import."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file != __file__:
            line = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return "" if isinstance(error, SyntaxError) else line  # it names its line itself


@cache
def discover() -> None:
    """Load the plugins of $BOXWRIGHT_PLUGINS and of installed packages, once; a package that fails is a warning."""
    for plugin in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load(plugin)
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"the installed plugin {point.value} fails with {type(error).__name__}: {error}", stacklevel=2
            )


def for_new_process() -> str:
    """The value of $BOXWRIGHT_PLUGINS for a process that loads this one's checkpoints."""
    modules = (module for module in _modules.values() if module != "__main__")
    return os.pathsep.join(filter(None, dict.fromkeys([os.environ.get(VARIABLE, ""), *modules])))


def options() -> str:
    """What a command needs to know the same plugins, such as " --plugin my_detector.py"; empty for none."""
    return "".join(f" --plugin {plugin}" for plugin in _options)


def mend(module: str) -> str:
    """How to make known what this module registers."""
    if module == "__main__":
        return "it was registered in a session or notebook: run those lines first, or move them into a file"
    return f"import {module} first; commands take it as --plugin {module}, or with the path of its file"
