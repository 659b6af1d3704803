"""Labels in any script: the bundled font, fonts of the machine, and what is said where none has a character."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwright.draw import font

SCRIPTS = {
    "Latin": "AZaz09%\u00e9\u00fc\u00f1\u0142\u00df\u0130\u0219\u1ec7",
    "Greek": "\u03a9\u03bc\u03ad\u03b3\u03b1",
    "Cyrillic": "\u0436\u044b\u0457\u0493\u045f",
}
CAT, ALEF = "\u732b", "\u05d0"  # no Latin, Greek or Cyrillic


@pytest.fixture(autouse=True)
def only_the_bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The list of fonts that are known, which a test may extend."""
    files = [font._BUNDLED]
    monkeypatch.setattr(font, "_files", lambda: files)
    font._choose.cache_clear()
    yield files
    font._choose.cache_clear()


def used(text: str) -> Path:
    path = font.load_font(text, 12).path
    assert isinstance(path, str | Path)
    return Path(path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_bundled_font_has_the_letters_of_three_scripts(script: str):
    assert font._missing(font._BUNDLED, frozenset(SCRIPTS[script])) == set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert used(SCRIPTS[script]) == font._BUNDLED
    assert font.load_font(SCRIPTS[script], 20).size == 20


def test_what_no_font_has_is_named_once():
    with pytest.warns(UserWarning, match=f"no font on this machine has {CAT}; labels show boxes instead"):
        assert used(f"cat {CAT}") == font._BUNDLED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        font.load_font(f"cat {CAT}", 14)


def test_fonts_are_searched_once_for_a_name_whatever_its_score():
    for score in range(100):
        font.load_font(f"\u0436 {score}%", 12)
    assert font._choose.cache_info().misses == 1


def test_a_font_of_the_machine_has_what_the_bundled_one_lacks(only_the_bundled: list[Path], tmp_path: Path):
    matplotlib = pytest.importorskip("matplotlib", reason="its fonts have more characters")
    whole = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    (tmp_path / "damaged.ttf").write_bytes(font._BUNDLED.read_bytes()[:300])
    only_the_bundled += [tmp_path / "damaged.ttf", whole]
    assert used(ALEF) == whole
    with pytest.warns(UserWarning, match=f"has {CAT};"):  # the best of them
        assert used(CAT + ALEF) == whole


def test_a_name_is_one_line_of_characters_that_fonts_have():
    assert font.drawable("cafe\u0301 \u2764\ufe0f a\tb\n") == "caf\u00e9 \u2764 a b"


def test_fonts_of_usual_style_are_tried_first():
    names = ["DejaVuSerif.ttf", "NotoSans-Bold.ttf", "NotoSans-Regular.ttf", "Zapfino.ttf"]
    assert [path.name for path in sorted(map(Path, names), key=font._rank)] == [
        "NotoSans-Regular.ttf",
        "Zapfino.ttf",
        "NotoSans-Bold.ttf",
        "DejaVuSerif.ttf",
    ]
