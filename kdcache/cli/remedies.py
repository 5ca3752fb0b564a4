"""What to do about a fault, in words: the only place where remedies meet flags."""

from kdcache.cache.verify import Fault
from kdcache.errors import Remedy

_WORDS = {
    Remedy.REPAIR: "run `kdcache verify --repair`, then the same `kdcache extract` again",
    Remedy.REBUILD: "run `kdcache verify --rebuild`",
    Remedy.REBUILD_OR_DELETE_GROUP: "run `kdcache verify --rebuild --group {group}`, or delete the folder {group} and "
    "extract it again",
    Remedy.EXTRACT_ELSEWHERE: "extract again into another folder",
    Remedy.REMOVE_FILE: "remove it",
    Remedy.OTHER_TEACHER: "the cache is not this teacher's: extract again, or run with the versions in the manifest",
}


def remedy_text(remedy: Remedy, *, group: str = "") -> str:
    """A remedy as a sentence without its full stop."""
    return _WORDS[remedy].format(group=group)


def fault_line(fault: Fault) -> str:
    """One line: where, what is wrong, what to do."""
    return f"{fault.where}: {fault.problem}; {remedy_text(fault.remedy, group=fault.group)}"
