"""A folder of class folders, ``class/name.jpg``, or of images alone."""

import os
from collections import Counter
from pathlib import Path

from kdcache.errors import BadImageError, SourceError
from kdcache.images.classes import ClassRule, is_dropping, refuse_splits
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.source import UNLABELLED, Source, SourceImage


class FolderSource(Source):
    """Images below the class folders of one folder; those of a folder without class folders have no labels.

    A class is a folder with at least one image in it or below it. Everything that is not taken is counted by reason.

    Args:
        root: The folder.
        classes: The order of the classes.

    Raises: SourceError when there are no images, and for a folder that holds splits in place of classes.
    """

    kind = "folder"

    def __init__(self, root: Path, classes: ClassRule | None = None) -> None:
        self._root = root
        self.passed_over = Counter[str]()
        self._dangling: set[Path] = set()
        try:
            found = {name: self._image_files(root / name) for name in self._folders(root)}
            loose = self._loose_images()
        except OSError as error:
            raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); nothing is left out") from None
        found = {name: paths for name, paths in found.items() if paths}
        images: list[SourceImage] = []
        self._paths: list[Path] = []
        if found:
            refuse_splits(root, sorted(found), is_nested=all(_is_nested(root / name, found[name]) for name in found))
            self.passed_over.update(["beside the class folders"] * len(loose))
        else:
            found = {"": loose}
        self.class_names = (classes or ClassRule()).class_names(found, where=str(root)) if "" not in found else []
        for name in sorted(found):
            label = self.class_names.index(name) if name else UNLABELLED
            for path in found[name]:
                key = path.relative_to(root).as_posix()
                images.append(SourceImage(key, key[: -len(path.suffix)], image_extension(key) or "", label))
                self._paths.append(path)
        self.label_source = "class folders" if self.class_names else ""
        self.images = images
        if not images:
            raise SourceError(self._nothing_found())

    def read(self, position: int) -> bytes:
        path = self._paths[position]
        if path in self._dangling:
            raise BadImageError("a link to nothing")
        try:
            return path.read_bytes()
        except PermissionError:
            raise BadImageError("no permission to read it") from None
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read any more ({error.strerror}); restore it, then run the same command again"
            ) from None

    def size_bytes(self, position: int) -> int:
        path = self._paths[position]
        return path.stat().st_size if path.is_file() else 0

    def _folders(self, root: Path) -> list[str]:
        found = [entry.name for entry in _entries(root) if _is_folder(entry)]
        self.passed_over.update(f"folder {name}" for name in found if is_dropping(name))
        return [name for name in found if not is_dropping(name)]

    def _loose_images(self) -> list[Path]:
        return [Path(entry.path) for entry in _entries(self._root) if not _is_folder(entry) and self._is_image(entry)]

    def _image_files(self, folder: Path) -> list[Path]:
        found: list[Path] = []
        for entry in _entries(folder):
            if not _is_folder(entry):
                found += [Path(entry.path)] if self._is_image(entry) else []
            elif is_dropping(entry.name):
                self.passed_over[f"folder {entry.name}"] += 1
            elif entry.is_symlink():
                # A link upwards would never end.
                self.passed_over["links to folders"] += 1
            else:
                found += self._image_files(Path(entry.path))
        return sorted(found, key=lambda path: path.as_posix())

    def _is_image(self, entry: "os.DirEntry[str]") -> bool:
        """Whether a file is taken; counts it where it is not."""
        if is_dropping(entry.name):
            self.passed_over["hidden files"] += 1
        elif image_extension(entry.name) is None:
            self.passed_over[Path(entry.name).suffix.lower() or "without extension"] += 1
        elif entry.is_symlink() and not Path(entry.path).exists():
            self._dangling.add(Path(entry.path))
            return True
        elif entry.is_file():
            return True
        else:
            # A pipe, a socket or a device: reading it could wait for ever.
            self.passed_over["special files"] += 1
        return False

    def _nothing_found(self) -> str:
        root = self._root
        wanted = f"{root}: no images (wanted class/name.jpg, or images alone; extensions {', '.join(EXTENSIONS)})"
        if tars := sorted(root.glob("*.tar*")):
            return f"{wanted}; it holds tars: pass them as '{root}/{tars[0].name}' or with a brace pattern"
        if self.passed_over:
            return f"{wanted}; passed over: {self.passed_over_text()}"
        return f"{wanted}; pass the folder that holds the class folders"


def _is_nested(folder: Path, images: list[Path]) -> bool:
    parents = {path.parent for path in images}
    return folder not in parents and len({path.relative_to(folder).parts[0] for path in images}) > 1


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
