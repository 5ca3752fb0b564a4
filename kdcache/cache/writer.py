"""Writing one shard of the base: image by image, and then all of it at once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TypeVar

from kdcache.cache.base import BaseFingerprint
from kdcache.cache.facts import FileFacts
from kdcache.cache.index import ShardIndex, index_bytes
from kdcache.cache.manifest import fingerprint_bytes, fingerprint_digest
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.shard import META_MEMBER, TarWriter
from kdcache.cache.tar import Member
from kdcache.durable import make_folder, write_file
from kdcache.strict_json import dump_json

Writer = TypeVar("Writer", bound="TarsWriter")


@dataclass(frozen=True)
class BadSample:
    """An image that is not in the cache, and why; `position` is its place in the shard's plan."""

    position: int
    key: str
    source_key: str
    reason: str


class TarsWriter:
    """Tars that are written together: as a context manager, leaving the block without a commit removes all of them.

    Args:
        paths: Of the base or of a group.
        name: The shard.
        parts: The tars by part.
    """

    def __init__(self, paths: CachePaths, name: str, parts: Sequence[str]) -> None:
        self.paths = paths
        self.name = name
        self.tars: dict[str, TarWriter] = {}
        for part in (*parts, INDEX):
            make_folder(paths.shard(part, name).parent)
        for part in parts:
            self.tars[part] = TarWriter(paths.shard(part, name))

    def commit_tars(self) -> dict[str, FileFacts]:
        """Make the tars visible. Returns: their identities by part."""
        facts: dict[str, FileFacts] = {}
        for part, tar in self.tars.items():
            tar.commit()
            facts[part] = FileFacts.of(tar.file)
        return facts

    def discard(self) -> None:
        """Remove what is not committed."""
        for tar in self.tars.values():
            tar.discard()

    def __enter__(self: Writer) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class BaseShardWriter(TarsWriter):
    """Writes one shard of a base; nothing of it is visible before `commit`, all of it afterwards.

    Args:
        paths: The base.
        fingerprint: How it is made.
        name: The shard.
    """

    def __init__(self, paths: CachePaths, fingerprint: BaseFingerprint, name: str) -> None:
        super().__init__(paths, name, [SAMPLES])
        make_folder(paths.shard(LEDGER, name).parent)
        self._fingerprint = fingerprint
        self._samples: list[Sample] = []
        self._image_members: list[Member | None] = []
        self.tars[SAMPLES].append(META_MEMBER, fingerprint_bytes(fingerprint))

    def add_sample(self, sample: Sample, image: bytes, extension: str) -> None:
        """Add one image: its record, and its own bytes as ``<key>.<extension>`` if the base embeds images."""
        tar = self.tars[SAMPLES]
        tar.append(f"{sample.key}.json", sample.to_json(tuple(self._fingerprint.views.fields)))
        embed = self._fingerprint.images == "embed"
        self._image_members.append(tar.append(f"{sample.key}.{extension}", image) if embed else None)
        self._samples.append(sample)

    @property
    def num_samples(self) -> int:
        """Images so far."""
        return len(self._samples)

    def commit(self, bad: Sequence[BadSample]) -> ShardIndex:
        """Make the shard visible: the tar, then the ledger, then the index that names both.

        Args:
            bad: Images of this shard's plan that are not in it.
        """
        views = self._fingerprint.views
        index = ShardIndex.from_samples(
            self._samples,
            self._image_members,
            plan=fingerprint_digest(self._fingerprint),
            num_views=views.num_views,
            num_view_fields=len(views.fields),
        )
        index.files |= self.commit_tars()
        path = self.paths.shard(LEDGER, self.name)
        write_file(path, ledger_bytes(bad), replace=False)
        index.files[LEDGER] = FileFacts.read(path)
        write_file(self.paths.shard(INDEX, self.name), index_bytes(index), replace=False)
        return index


def ledger_bytes(bad: Sequence[BadSample]) -> bytes:
    """The ledger of a shard: what is missing and why. Not derivable from the tars."""
    return dump_json({"bad": [asdict(each) for each in bad]})
