"""What people type behind a flag of images, with and without a shell that expands it."""

import os
from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images.paths import expand_paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some files; the home folder holds one, too."""
    for name in ("t1.tar", "t2.tar", "t10.tar", "a b.tar", "odd,name.tar", "odd::name.tar", "x{1..2}.tar", "x[1].tar"):
        (tmp_path / name).touch()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "h.tar").touch()
    (tmp_path / "nothing.tar").symlink_to("away.tar")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("t1.tar", ["t1.tar"]),
        ("t{1..2}.tar", ["t1.tar", "t2.tar"]),
        ("t{2,1}.tar", ["t2.tar", "t1.tar"]),
        ("t*.tar", ["t1.tar", "t2.tar", "t10.tar"]),
        ("t?.tar", ["t1.tar", "t2.tar"]),
        ("t[12].tar", ["t1.tar", "t2.tar"]),
        ("./t1.tar::./t2.tar", ["t1.tar", "t2.tar"]),
        ("t2.tar,t1.tar", ["t2.tar", "t1.tar"]),
        ("t1.tar, t2.tar", ["t1.tar", "t2.tar"]),
        ("t1.tar,t2.tar,", ["t1.tar", "t2.tar"]),
        ("t{1,2}.tar::t10.tar", ["t1.tar", "t2.tar", "t10.tar"]),
        ("~/h.tar", ["home/h.tar"]),
        ("~/{h,h}.tar::t1.tar", None),
        ("~/*.tar", ["home/h.tar"]),
        ("$HOME/*.tar", ["home/h.tar"]),
        ("${HOME}/h.tar", ["home/h.tar"]),
        ("t{1..3..1}.tar,t1.tar", None),
        ("t{1..10..9}.tar", ["t1.tar", "t10.tar"]),
        ("./t1.tar", ["t1.tar"]),
        ("home/../t1.tar", ["t1.tar"]),
        ("a b.tar", ["a b.tar"]),
        ("a b.tar,t1.tar", ["a b.tar", "t1.tar"]),
        ("odd,name.tar", ["odd,name.tar"]),
        ("odd::name.tar", ["odd::name.tar"]),
        ("x{1..2}.tar", ["x{1..2}.tar"]),
        ("x[1].tar", ["x[1].tar"]),
    ],
)
def test_what_is_typed_is_found(here: Path, text: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(SourceError, match=r"h.tar: is named twice|t3.tar: no such file"):
            expand_paths(text)
        return
    assert [Path(os.path.relpath(path, here)) for path in expand_paths(text)] == [Path(name) for name in names]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NOBODY/t1.tar", r"\$NOBODY/t1.tar: no such file or folder"),
        ("t1.tar t2.tar", "no such file or folder; did you mean"),
        ("t1.tar;t2.tar", "no such file or folder; did you mean"),
        ("t1.tar|t2.tar", "no such file or folder; did you mean"),
        ("t1.tar:t2.tar", "no such file or folder; did you mean"),
        ("t%03d.tar", "no such file or folder; did you mean"),
        ("t{1-3}.tar", "no such file or folder; did you mean"),
        ("@t1.tar", "no such file or folder; did you mean t1.tar"),
        ("T1.tar", "no such file or folder; did you mean t1.tar"),
        ("-", "no such file or folder"),
        ("t3.tar", r"t3.tar: no such file or folder; did you mean t\d+.tar\?"),
        ("t{1..3}.tar", r"t3.tar: no such file or folder \(1 of 3 of 't\{1..3\}.tar' are missing\)"),
        ("away/x.tar", "there is no folder away either"),
        ("q*.tar", r"q\*.tar: no file or folder matches"),
        ("t{1..3.tar", "braces are not balanced"),
        ("t{1..150000}.tar", "names more than 100,000 files"),
        ("t1.tar::t1.tar", "t1.tar: is named twice"),
        ("nothing.tar", "a link to away.tar, which is not there"),
        ("", "names no data"),
        (" , ", "names no data"),
        ("~nobody-of-that-name/x.tar", "there is no folder"),
        pytest.param("x" * 5000, "no such file or folder", id="too long"),
    ],
)
def test_what_is_not_there_is_named(here: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        expand_paths(text)
