"""The flags that name images and say how they are read, the same for every verb."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from kdcache.cli.places import local_path
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.images.rules import SourceRules

DATA_HELP = "folder of class folders, tars (also compressed, braces, globs, several), or digits"
# Two colons, as WebDataset's users write lists; below the command line data is one text.
_SEPARATOR = "::"
RULES = ("tar_keys", "image_member", "label_member", "key_prefix", "labels", "class_order", "class_map")


@final
class _Data(argparse.Action):
    """Takes all values of all occurrences, as a shell leaves them after expanding a pattern."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See argparse.Action."""
        earlier = getattr(namespace, self.dest, None)
        given = [earlier] if earlier else []
        setattr(namespace, self.dest, _SEPARATOR.join([*given, *(values or ())]))


def add_data(group: argparse._ActionsContainer, flag: str, *, help: str, required: bool = False) -> None:
    """Declare a flag that names images; it takes several values, and adds up when it is given again."""
    group.add_argument(
        flag,
        action=_Data,
        nargs="+",
        metavar="D",
        required=required,
        help=help,
    )


def rules_of(arguments: argparse.Namespace) -> "SourceRules":
    """The rules of the flags of `add_rules`. Raises: UsageError."""
    from kdcache.images.classes import ClassRule
    from kdcache.images.rules import SourceRules

    given = {name: value for name, value in vars(arguments).items() if name in RULES}
    try:
        classes = ClassRule(order=given.pop("class_order", "natural"), class_map=given.pop("class_map", None))
        return SourceRules(classes=classes, **given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def add_rules(group: argparse._ActionsContainer) -> None:
    """Declare the flags that say how images, keys and labels are found; those not given are left out."""
    default = argparse.SUPPRESS
    group.add_argument(
        "--labels",
        type=local_path,
        metavar="FILE",
        default=default,
        help="name,label on each line, in place of all other labels",
    )
    group.add_argument(
        "--label-member",
        metavar="EXT[:FIELD]",
        default=default,
        help="labels in tars: cls, json:label, another extension, folder or none (what there is)",
    )
    group.add_argument(
        "--image-member",
        metavar="EXT",
        default=default,
        help="which image of a sample, where it has several: jpg, left",
    )
    group.add_argument(
        "--tar-keys",
        choices=("first-dot", "last-dot"),
        default=default,
        help="where the key ends in a member's name (first-dot)",
    )
    group.add_argument(
        "--key-prefix",
        choices=("none", "tar"),
        default=default,
        help="put the name of the tar in front of its keys (none)",
    )
    group.add_argument(
        "--class-order",
        choices=("natural", "sorted"),
        default=default,
        help="of class folders: as timm's, or by code points (natural)",
    )
    group.add_argument(
        "--class-map",
        type=local_path,
        metavar="FILE",
        default=default,
        help="names of classes, one a line, in the teacher's order",
    )
