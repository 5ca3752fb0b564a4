"""A folder of class folders, ``class/name.jpg``, or of images alone."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcache.errors import BadImageError, SourceError
from kdcache.images.classes import ClassRule, indices_by_name, is_dropping, plain_name
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.source import UNLABELLED, Source, SourceImage
from kdcache.images.splits import refuse_splits

_MAX_NAMED = 5


class FolderSource(Source):
    """Images below the class folders of one folder, or of a folder without class folders, which have no labels.

    Nor have those of a single class folder whose class nobody has named.

    A class is a folder with at least one image in it or below it. Everything that is not taken is counted by reason.

    Args:
        root: The folder.
        classes: The order of the classes.
        is_labelled: Whether folders are classes, so that they have to make sense as such.

    Raises: SourceError when there are no images, and for a folder that holds splits in place of classes.
    """

    kind = "folder"

    def __init__(self, root: Path, classes: ClassRule | None = None, *, is_labelled: bool = True) -> None:
        self._root = root
        self.passed_over = Counter[str]()
        self._dangling: set[Path] = set()
        try:
            found = {name: self._image_files(root / name) for name in self._folders(root)}
            loose = self._loose_images()
        except OSError as error:
            raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); nothing is left out") from None
        self._count_empty([name for name, paths in found.items() if not paths])
        found = {name: paths for name, paths in found.items() if paths}
        rule = classes or ClassRule()
        if found and is_labelled:
            self._refuse_links_to_classes(root, found)
            if not rule.knows(found):
                refuse_splits(root, [path for paths in found.values() for path in paths])
            self._refuse_most_beside(root, found, loose)
        if found:
            self.passed_over.update(["beside the class folders"] * len(loose))
        else:
            found = {"": loose}
        # One folder alone tells nothing apart, unless it is known which class it is.
        is_labelled = is_labelled and (len(found) > 1 or (rule.has_names and "" not in found))
        self.class_names = rule.class_names(found, where=str(root)) if is_labelled else []
        indices = indices_by_name(self.class_names)
        images: list[SourceImage] = []
        self._paths: list[Path] = []
        for name in sorted(found):
            label = indices[plain_name(name)] if is_labelled else UNLABELLED
            for path in found[name]:
                key = path.relative_to(root).as_posix()
                images.append(SourceImage(key, key[: -len(path.suffix)], image_extension(key) or "", label))
                self._paths.append(path)
        self.label_source = self._label_source(found) if is_labelled else ""
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
        kept: list[str] = []
        for entry in _entries(root):
            if not _is_folder(entry):
                continue
            if is_dropping(entry.name):
                self.passed_over[f"folder {entry.name}"] += 1
            elif entry.is_symlink() and _real(root).is_relative_to(_real(Path(entry.path))):
                # It holds all of this again.
                self.passed_over["links to folders"] += 1
            else:
                kept.append(entry.name)
        return kept

    def _count_empty(self, names: Sequence[str]) -> None:
        """Count folders without an image, which are no classes, and name some."""
        if len(names) == 1:
            self.passed_over[f"folder {names[0]} without an image"] += 1
        elif names:
            more = ", …" if len(names) > _MAX_NAMED else ""
            self.passed_over[f"folders without an image ({', '.join(names[:_MAX_NAMED])}{more})"] += len(names)

    def _refuse_links_to_classes(self, root: Path, found: Mapping[str, Sequence[Path]]) -> None:
        """Refuse a link to a folder that is read already: its images would come twice, under two labels."""
        places = {name: _real(root / name) for name in found}
        for name in (name for name in found if (root / name).is_symlink()):
            for other, place in places.items():
                if other != name and (place.is_relative_to(places[name]) or places[name].is_relative_to(place)):
                    raise SourceError(
                        f"{root / name}: a link to images that {root / other} holds too; they would be read twice, as "
                        "two classes: remove the link"
                    )

    def _refuse_most_beside(self, root: Path, found: Mapping[str, Sequence[Path]], loose: Sequence[Path]) -> None:
        """Refuse images beside class folders that are most of all images; fewer are left out."""
        num_inside = sum(len(paths) for paths in found.values())
        if len(loose) > num_inside:
            raise SourceError(
                f"{root}: holds {len(loose)} images, and {num_inside} in its folders {', '.join(sorted(found)[:3])}; "
                "class folders have no images beside them, so move one or the other away"
            )

    def _label_source(self, found: Mapping[str, Sequence[Path]]) -> str:
        inner = {path.parent for paths in found.values() for path in paths} - {self._root / name for name in found}
        return "class folders" + (f", with the images of {len(inner)} folders inside them" if inner else "")

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
        elif image_extension(entry.name) is None and entry.is_symlink() and not Path(entry.path).exists():
            # Perhaps a class whose disk is not mounted.
            self.passed_over[f"link {entry.name} to nothing"] += 1
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


def _real(path: Path) -> Path:
    # Path.resolve raises for a link to itself.
    return Path(os.path.realpath(path))


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
