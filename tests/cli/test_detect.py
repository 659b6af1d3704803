"""`boxwright detect` on good images, bad ones, and folders of both, with a detector whose answer is known."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from boxwright import cli
from boxwright.cli import detecting
from boxwright.cli.images import _distinct
from boxwright.files import Outputs, partial_of
from halves import halves, overlapping


@pytest.fixture(autouse=True)
def known_detector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(detecting, "load", lambda model, device, precision: halves())
    monkeypatch.chdir(tmp_path)


def save(path: str, height: int = 30, width: int = 40) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(file)
    return file


def visible(folder: str) -> list[Path]:
    """The files in a folder and below, without hidden ones."""
    return [path for path in Path(folder).rglob("[!.]*") if path.is_file()]


@pytest.fixture
def mixed() -> Path:
    """A folder as they are found in the wild: a photo, four broken files, and four unusual images."""
    folder = save("mixed/photo.jpg").parent
    rng = np.random.default_rng(0)
    (folder / "empty.jpg").write_bytes(b"")
    PIL.Image.fromarray(rng.integers(0, 256, (200, 300, 3), np.uint8)).save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:9000])
    (folder / "text.jpg").write_text("this is no image\n")
    PIL.Image.new("RGB", (1, 1)).save(folder / "one-pixel.png")
    PIL.Image.new("RGB", (4000, 3000)).save(folder / "12-megapixel.jpg")
    PIL.Image.new("CMYK", (50, 20)).save(folder / "cmyk.jpg")
    frames = [PIL.Image.new("P", (30, 20), color) for color in (0, 1, 2)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_pipe_and_an_image_above_the_limit_are_named_and_the_others_done(capsys: pytest.CaptureFixture[str]):
    folder = save("some/photo.jpg").parent
    save("some/large.png", 90, 120)
    save("some/large.jpg", 90, 120)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    assert cli.main(["detect", str(folder), "--json", "--max-megapixels", "0.01"]) == 1
    shown = capsys.readouterr()
    for name, reason in (
        ("large.png", "0.01 megapixels"),
        ("pipe.jpg", "found a pipe"),
        ("zero.jpg", "found a device"),
    ):
        assert [line for line in shown.err.splitlines() if name in line and reason in line], name
    assert "3 could not be read" in shown.err and "BOXWRIGHT_MAX_MEGAPIXELS" not in os.environ
    found = {Path(record["path"]).name: record for record in map(json.loads, shown.out.splitlines())}
    assert found.keys() == {"photo.jpg", "large.jpg"}
    record = found["large.jpg"]  # decoded to half its size
    assert (record["width"], record["height"], record["detections"][0]["box"]) == (120, 90, [0, 0, 120, 90])
    assert PIL.Image.open("detections/large.jpg").size == (60, 45)


def test_bad_files_of_a_folder_are_named_and_the_others_done(mixed: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["detect", str(mixed), "--json", "--coco", "all.json", "--yolo", "labels"]) == 1
    shown = capsys.readouterr()
    for name, reason in (("empty", "empty file"), ("truncated", "breaks off"), ("text", "this is no image")):
        assert [line for line in shown.err.splitlines() if f"{name}.jpg" in line and reason in line], name
    assert "Traceback" not in shown.err and "3 could not be read" in shown.err
    good = {"12-megapixel.jpg": (4000, 3000), "animated.gif": (30, 20), "cmyk.jpg": (50, 20)}
    good |= {"one-pixel.png": (1, 1), "photo.jpg": (40, 30)}
    found = {Path(record["path"]).name: record for record in map(json.loads, shown.out.splitlines())}
    assert found.keys() == good.keys()
    for name, (width, height) in good.items():
        (detection,) = found[name]["detections"]
        assert detection == {"name": "whole", "label": 0, "score": 0.9, "box": [0, 0, width, height]}
        assert Path("labels", f"{Path(name).stem}.txt").read_text() == "0 0.500000 0.500000 1.000000 1.000000\n"
    drawn = {path.name: PIL.Image.open(path).size for path in visible("detections")}
    assert drawn == {("animated.jpg" if name == "animated.gif" else name): size for name, size in good.items()}
    assert len(json.loads(Path("all.json").read_text())["annotations"]) == 5
    assert Path("labels/classes.txt").read_text() == "whole\nhalf\n"


def test_the_table_has_a_row_per_detection(capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    save("dog.jpg", 20, 30)
    assert cli.main(["detect", "cat.jpg", "dog.jpg", "--threshold", "0.3"]) == 0
    shown = capsys.readouterr()
    assert [line.split() for line in shown.out.splitlines()] == [
        ["image", "class", "score", "left", "top", "right", "bottom"],
        ["cat.jpg", "whole", "0.900", "0", "0", "40", "30"],
        ["cat.jpg", "half", "0.400", "0", "0", "20", "30"],
        ["dog.jpg", "whole", "0.900", "0", "0", "30", "20"],
        ["dog.jpg", "half", "0.400", "0", "0", "15", "20"],
        ["at", "score", "≥", "0.300", "(--threshold)"],
    ]
    assert "found 2 whole, 2 half in 2 images" in shown.err and "written: detections" in shown.err


def test_the_threshold_is_below_the_table_and_in_the_json(capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    assert cli.main(["detect", "cat.jpg"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "at score ≥ 0.500 (the model's own; --threshold changes it)"
    for words, threshold in (([], 0.5), (["--threshold", "0.3"], 0.3)):
        assert cli.main(["detect", "cat.jpg", "--json", "--no-draw", *words]) == 0
        assert json.loads(capsys.readouterr().out)["threshold"] == threshold


def test_many_images_have_a_row_each(capsys: pytest.CaptureFixture[str]):
    for number in range(11):
        save(f"many/{number:02}.png")
    assert cli.main(["detect", "many", "--threshold", "0.3", "--batch", "4"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:-1]
    assert [row.split(maxsplit=1) for row in rows] == [
        [str(Path("many", f"{number:02}.png")), "1 whole, 1 half"] for number in range(11)
    ]


def test_only_some_classes_and_no_drawing(capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    assert cli.main(["detect", "cat.jpg", "--threshold", "0", "--classes", "half", "--no-draw", "--json"]) == 0
    assert [d["name"] for d in json.loads(capsys.readouterr().out)["detections"]] == ["half"]
    assert not Path("detections").exists()


def test_json_lines_in_a_file(capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    assert cli.main(["detect", "cat.jpg", "--json-file", "new/found.jsonl"]) == 0
    (line,) = Path("new/found.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "cat.jpg"
    assert "whole" in capsys.readouterr().out  # the table is printed besides


def test_nms_of_all_classes_and_the_number_of_detections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(detecting, "load", lambda model, device, precision: overlapping())
    save("cat.jpg", 32, 32)
    for words, count in (("", 2), ("--nms 0.7", 3), ("--agnostic-nms", 1), ("--nms 0.7 --max-detections 2", 2)):
        assert cli.main(["detect", "cat.jpg", "--json", "--no-draw", *words.split()]) == 0
        assert len(json.loads(capsys.readouterr().out)["detections"]) == count, words


def test_yolo_lines_end_with_the_score_if_asked():
    save("cat.jpg")
    assert cli.main(["detect", "cat.jpg", "--yolo", "labels", "--yolo-scores", "--threshold", "0.3"]) == 0
    first, second = Path("labels/cat.txt").read_text().splitlines()
    assert first == "0 0.500000 0.500000 1.000000 1.000000 0.900000"
    assert second == "1 0.250000 0.500000 0.500000 1.000000 0.400000"


def test_folders_keep_their_shape_and_names_stay_apart():
    inside = ("a/x.jpg", "b/x.jpg", "b/x.png", "b/my.cat.bmp", ".hidden/x.jpg", "._x.jpg")
    for path in (*(f"in/{name}" for name in inside), "x.jpg"):
        save(path)
    assert cli.main(["detect", "in", "x.jpg", "in/a/x.jpg", "--yolo", "labels"]) == 0
    for folder, names in (
        ("detections", ["a/x.jpg", "b/my.cat.jpg", "b/x-2.png", "b/x.jpg", "x.jpg"]),
        ("labels", ["a/x.txt", "b/my.cat.txt", "b/x-2.txt", "b/x.txt", "classes.txt", "x.txt"]),
    ):
        assert sorted(path.relative_to(folder).as_posix() for path in visible(folder)) == names


@pytest.mark.parametrize("option", ["--json-file", "--coco"])
def test_a_folder_in_place_of_a_file_is_noticed_before_the_work(option: str, capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    Path("folder").mkdir()
    assert cli.main(["detect", "cat.jpg", option, "folder"]) == 1
    assert f"{option} names a file, and folder is a folder" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["cat.jpg", "folder"]


def test_globs_and_what_they_do_not_find(capsys: pytest.CaptureFixture[str]):
    for path in ("a1.jpg", "a2.png", "deep/down/a3.jpg"):
        save(path)
    assert cli.main(["detect", "a?.*", "**/a3.jpg", "--json"]) == 0
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == [
        "a1.jpg",
        "a2.png",
        str(Path("deep/down/a3.jpg")),
    ]
    Path("nothing-in-here").mkdir()
    assert cli.main(["detect", "a1.jpg", "b*.jpg", "missing.jpg", "nothing-in-here", "--json"]) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert "b*.jpg: nothing matches" in shown.err
    assert "missing.jpg: there is no such file or folder" in shown.err
    assert "nothing-in-here: there is no image in this folder" in shown.err


def test_images_drawn_earlier_are_not_detected_on_again(capsys: pytest.CaptureFixture[str]):
    save("cat.jpg")
    for _ in range(2):
        assert cli.main(["detect", ".", "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_image_too_large_for_jpeg_is_drawn_as_png(capsys: pytest.CaptureFixture[str]):
    """A side of a JPEG has at most 65535 pixels."""
    save("in/long.bmp", 1, 66000)
    save("in/z.jpg")
    for _ in range(2):
        assert cli.main(["detect", "in"]) == 0
        assert [path.name for path in sorted(visible("detections"))] == ["long.png", "z.jpg"]
        assert PIL.Image.open("detections/long.png").size == (66000, 1)
    Path("detections/long.png").write_bytes(b"mine")
    capsys.readouterr()
    assert cli.main(["detect", "in", "--json"]) == 1  # the others are done
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2 and "1 could not be drawn" in shown.err
    assert "long.bmp: --out would replace detections/long.png, which boxwright did not write" in shown.err
    assert Path("detections/long.png").read_bytes() == b"mine"


def test_what_is_left_out_of_a_folder_is_counted(capsys: pytest.CaptureFixture[str]):
    save("in/a.JPG")
    save("elsewhere/b.png")
    Path("in/linked").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    for name in ("a.txt", "b.TXT", "c.heic", "d", ".hidden", "e.1", "f.2", "g.3"):
        Path("in", name).touch()
    assert cli.main(["detect", "in", "--json"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["path"] for line in shown.out.splitlines()] == ["in/a.JPG", "in/linked/b.png"]
    assert "left out, by their names no images: 2 .txt, 1 .heic, 1 without suffix, 1 .1, 1 .2, 1 others; " in shown.err


def test_names_are_told_apart_in_linear_time():
    """Also on file systems where a.txt is A.txt."""
    paths = [Path(f"{folder}/cat.jpg") for folder in range(3)] + [Path("Cat.png"), Path("cat-2.jpg"), Path("x/cat.jpg")]
    stems = [path.name if path.parent.name != "x" else path for path in paths]
    assert [str(stem) for stem in _distinct(map(Path, stems))] == ["cat", "cat-2", "cat-3", "Cat-4", "cat-2-2", "x/cat"]
    begun = time.process_time()
    assert len(set(_distinct([Path("cat.jpg")] * 20_000))) == 20_000
    assert time.process_time() - begun < 5  # in quadratic time an hour


def test_an_image_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for content in (save("a.png").read_bytes(), b"text"):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        status = cli.main(["detect", "-", "--json", "--yolo", "labels"])
        shown = capsys.readouterr()
        assert status == (content == b"text")
    assert "expected an image, found text that begins 'text'" in shown.err
    assert sorted(path.name for path in visible("labels")) == ["classes.txt", "stdin.txt"]
    assert PIL.Image.open("detections/stdin.jpg").size == (40, 30)
    assert cli.main(["detect", "-", "--coco", "found.json"]) == 1
    assert "the image from standard input has none" in capsys.readouterr().err


def test_an_image_is_never_drawn_over(capsys: pytest.CaptureFixture[str]):
    before = save("photos/cat.jpg").read_bytes()
    assert cli.main(["detect", "photos", "--out", "photos"]) == 1
    assert "give another --out" in capsys.readouterr().err
    assert Path("photos/cat.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no images. Name files"),
        (["cat.jpg", "--classes", "dog"], "no class is called dog; this model has whole, half"),
        (["cat.jpg", "--threshold", "50"], "between 0 and 1, got 50"),
        (["cat.jpg", "--batch", "0"], "1 or more, got 0"),
        (["cat.jpg", "--nms", "45"], "--nms is an IoU between 0 and 1, got 45"),
        (["cat.jpg", "--nms", "0.3"], "Halves has no Select"),
        (["cat.jpg", "--max-detections", "0"], "--max-detections is 1 or more, got 0"),
        (["cat.jpg", "--yolo-scores"], "adds scores to the files of --yolo DIR"),
        (["--classes", "half", "cat.jpg"], "no images. Name files"),
        (["cat.jpg", "--classes", "half", "cat.jpg"], "cat.jpg too; name the images before it"),
        (["missing.jpg"], "no such file"),
        (["cat.jpg", "--out", "found.jsonl"], "--out names a folder, and found.jsonl is a file"),
        (["cat.jpg", "--yolo", "cat.jpg"], "--yolo names a folder, and cat.jpg is a file"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    save("cat.jpg")
    assert cli.main(["detect", "cat.jpg", "--no-draw", "--json-file", "found.jsonl"]) == 0
    before = Path("found.jsonl").read_text()
    assert cli.main(["detect", *words, "--json-file", "found.jsonl", "--coco", "found.json"]) == 1
    assert said in capsys.readouterr().err
    assert sorted(os.listdir()) == [".boxwright-outputs", "cat.jpg", "found.jsonl"]
    assert Path("found.jsonl").read_text() == before


LABEL = "0 0.5 0.5 0.2 0.2\n"


@pytest.mark.parametrize(
    ("words", "file", "content", "message"),
    [
        (["--yolo", "mine"], "mine/a.txt", LABEL, "--yolo would replace mine/a.txt, which boxwright did not write"),
        (["--yolo", "mine"], "mine/a.txt", "", "--yolo would replace mine/a.txt"),  # labelled: nothing is in it
        (["--yolo", "mine"], "mine/classes.txt", "cat\n", "--yolo would replace mine/classes.txt"),
        (["--coco", "mine/train.json"], "mine/train.json", "{}", "--coco would replace mine/train.json"),
        (["--json-file", "mine/notes"], "mine/notes", "notes", "--json-file would replace mine/notes"),
        (["--out", "mine"], "mine/a.jpg", "a drawing", "--out would replace mine/a.jpg"),
        (["--out", "mine"], "mine/a.jpg/x", "", "would write the file mine/a.jpg, which is a folder"),
        (["--coco", "a.jpg"], "other", "", "--coco would write over the input a.jpg"),
        (["--json-file", "a.jpg"], "other", "", "--json-file would write over the input a.jpg"),
        (["--json-file", "new", "--coco", "./new"], "other", "", "--json-file and --coco would both write new"),
    ],
)
def test_nothing_of_the_users_is_replaced(
    words: list[str], file: str, content: str, message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """It is noticed before the model is loaded."""
    monkeypatch.setattr(detecting, "load", None)
    image = save("a.jpg").read_bytes()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(content)
    before = sorted(path.as_posix() for path in Path().rglob("*"))
    assert cli.main(["detect", "a.jpg", *words]) == 1
    assert message in capsys.readouterr().err
    assert Path("a.jpg").read_bytes() == image and Path(file).read_text() == content
    assert sorted(path.as_posix() for path in Path().rglob("*")) == before


OUTPUTS = ("detections/a.jpg", "found.json", "found.jsonl", "labels/a.txt", "labels/classes.txt")


@pytest.mark.parametrize("changed", OUTPUTS)
def test_its_own_output_is_replaced_until_somebody_changes_it(changed: str, capsys: pytest.CaptureFixture[str]):
    """A label file that was corrected by hand is the user's."""
    save("a.jpg")
    words = ["a.jpg", "--json-file", "found.jsonl", "--coco", "found.json", "--yolo", "labels"]
    assert cli.main(["detect", *words]) == 0
    assert cli.main(["detect", *words, "--threshold", "0.3"]) == 0  # one more box, so other files
    assert len(Path("labels/a.txt").read_text().splitlines()) == 2
    assert cli.main(["detect", *words]) == 0
    assert len(Path("labels/a.txt").read_text().splitlines()) == 1
    Path(changed).write_text(LABEL)
    contents = {path: Path(path).read_bytes() for path in OUTPUTS}
    capsys.readouterr()
    assert cli.main(["detect", *words]) == 1
    assert (
        f"would replace {changed}, which boxwright did not write or which was changed since" in capsys.readouterr().err
    )
    assert {path: Path(path).read_bytes() for path in OUTPUTS} == contents


def test_lines_of_a_run_that_was_killed_are_replaced_and_those_of_any_other_file_are_not():
    save("a.jpg")
    path = Path("new/found.jsonl")
    Outputs().begin(path)
    partial_of(path).write_text("half a li")
    words = ["detect", "a.jpg", "--no-draw", "--json-file", str(path)]
    assert [cli.main(words), cli.main(words)] == [0, 0]
    lines = map(json.loads, path.with_name(".boxwright-outputs").read_text().splitlines())
    assert [(line["file"], line["sha256"] is None) for line in lines] == [
        ("found.jsonl.partial", True),
        ("found.jsonl", False),
    ]
    path.write_text("half a li")
    assert cli.main(words) == 1


def test_a_device_is_written_to():
    save("a.jpg")
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert cli.main(["detect", "a.jpg", "--no-draw", "--json-file", os.devnull, "--coco", "pipe"]) == 0
    assert json.loads(os.read(reader, 10_000))["images"]
    os.close(reader)
    assert not Path(os.devnull).with_name(".boxwright-outputs").exists()


def test_an_input_is_not_written_over_under_another_name(capsys: pytest.CaptureFixture[str]):
    """Here the input is a drawing of an earlier run, which is not the user's, and the output a link to it."""
    save("a.jpg")
    assert cli.main(["detect", "a.jpg"]) == 0
    before = Path("detections/a.jpg").read_bytes()
    Path("link").symlink_to("detections", target_is_directory=True)
    assert cli.main(["detect", "detections/a.jpg", "--out", "link"]) == 1
    assert "--out would write over the input link/a.jpg; give another --out" in capsys.readouterr().err
    assert Path("detections/a.jpg").read_bytes() == before


def test_an_image_called_classes_does_not_share_a_file_with_the_class_names():
    save("classes.png")
    assert cli.main(["detect", "classes.png", "--yolo", "labels"]) == 0
    assert sorted(path.name for path in visible("labels")) == ["classes-2.txt", "classes.txt"]
    assert Path("labels/classes.txt").read_text() == "whole\nhalf\n"
