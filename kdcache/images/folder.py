"""A folder of class folders: ``class/name.jpg``."""

import os
from pathlib import Path

from kdcache.errors import SourceError
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.source import Source, SourceImage


class FolderSource(Source):
    """Images below the class folders of one folder; classes in order of code points.

    Args:
        root: The folder.

    Raises: SourceError when there are no class folders with images.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        self._paths: list[Path] = []
        images: list[SourceImage] = []
        self.class_names = classes
        for label, name in enumerate(classes):
            for path in _image_files(root / name):
                key = path.relative_to(root).as_posix()
                readable = key[: -len(path.suffix)]
                images.append(SourceImage(key, readable, image_extension(key) or "", label))
                self._paths.append(path)
        self.images = images
        if not images:
            raise SourceError(_nothing_found(root))

    def read(self, position: int) -> bytes:
        path = self._paths[position]
        try:
            return path.read_bytes()
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read any more ({error.strerror}); restore it, then run the same command again"
            ) from None

    def size_bytes(self, position: int) -> int:
        path = self._paths[position]
        return path.stat().st_size if path.is_file() else 0


def _image_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in files if image_extension(name)]
    return sorted(found, key=lambda path: path.as_posix())


def _nothing_found(root: Path) -> str:
    wanted = f"{root}: no images in class folders (wanted class/name.jpg; extensions {', '.join(EXTENSIONS)})"
    if tars := sorted(root.glob("*.tar*")):
        return f"{wanted}; it holds tars: pass them as '{root}/{tars[0].name}' or with a brace pattern"
    return f"{wanted}; pass the folder that holds the class folders"
