"""The version of boxwright; imports nothing, so that every file may ask for it."""

__version__ = "0.1.0"
