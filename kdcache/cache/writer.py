"""Writing one shard: sample by sample, batch by batch, and then all of it at once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike

from kdcache.cache.codecs import Codec
from kdcache.cache.index import ColumnIndex, ShardIndex, index_bytes
from kdcache.cache.manifest import ColumnFacts, FileFacts, Fingerprint, fingerprint_bytes
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.record import Array, RecordLayout
from kdcache.cache.sample import Sample
from kdcache.cache.shard import TarWriter, append_records, member_name
from kdcache.cache.statistics import Fidelity, TokenStatistics, singular_energies, spectrum_step
from kdcache.cache.tar import Member
from kdcache.durable import make_folder, write_file
from kdcache.errors import BadRecordError
from kdcache.strict_json import dump_json

META_MEMBER = "__kdcache__"
STATISTICS_LEVELS = ("full", "light")


@dataclass(frozen=True)
class BadSample:
    """An image that is not in the cache, and why; `position` is its place in the shard's plan."""

    position: int
    key: str
    source_key: str
    reason: str


class ColumnBuilder:
    """Gathers what the index says of one column while its records go by; no bytes are written here.

    Args:
        facts: The column.
        fingerprint: Its cache.
    """

    def __init__(self, facts: ColumnFacts, fingerprint: Fingerprint) -> None:
        self.facts = facts
        self.codec: Codec = facts.make_codec()
        self.layout: RecordLayout = facts.layout()
        self.shape = tuple(facts.shape)
        full = fingerprint.statistics == "full" and facts.kind == "patch"
        self._statistics = TokenStatistics(self.shape[-1], with_moments=full)
        self._spectrum_every = fingerprint.views.num_views * spectrum_step(fingerprint.shard_samples) if full else 0
        self._checksums: list[Array] = []
        self._sums: list[Array] = []
        self._squares: list[Array] = []
        self._spectra: list[Array] = []
        self._num_records = 0

    def add(self, decoded: Array, checksums: Array) -> None:
        """Take in the decoded values (B, *shape) and the payload checksums (B,) of the next records."""
        tokens = decoded if len(self.shape) == 2 else decoded[:, None, :]
        sums, squares = self._statistics.update(tokens)
        self._sums.append(sums.astype(np.float32))
        self._squares.append(squares)
        self._checksums.append(checksums)
        if self._spectrum_every:
            first = -self._num_records % self._spectrum_every
            self._spectra.append(singular_energies(tokens[first :: self._spectrum_every]))
        self._num_records += len(decoded)

    def finish(self) -> ColumnIndex:
        """The column's part of the index."""
        records = range(0, self._num_records, self._spectrum_every) if self._spectrum_every else ()
        return ColumnIndex(
            offset0=0,
            stride=self.layout.stride_bytes,
            crc32=_joined(self._checksums, (0,), np.uint32),
            column_sums=_joined(self._sums, (0, self.shape[-1]), np.float32),
            sum_of_squares=_joined(self._squares, (0,), np.float64),
            statistics=self._statistics,
            spectrum_records=np.array(records, np.int64),
            singular_energies=_joined(self._spectra, (0, min(self.shape)), np.float32),
        )


class ShardWriter:
    """Writes one shard of a cache; nothing of it is visible before `commit`, all of it afterwards.

    Use as a context manager: leaving the block without `commit` removes everything.

    Args:
        paths: The cache.
        fingerprint: How the cache is made.
        name: The shard.

    Attributes:
        fidelity: Of each column's codec, so far.
    """

    def __init__(self, paths: CachePaths, fingerprint: Fingerprint, name: str) -> None:
        self.paths = paths
        self.fingerprint = fingerprint
        self.name = name
        self._samples: list[Sample] = []
        self._image_members: list[Member | None] = []
        self._columns = {facts.name: ColumnBuilder(facts, fingerprint) for facts in fingerprint.columns}
        self.fidelity = {facts.name: Fidelity() for facts in fingerprint.columns}
        self._tars: dict[str, TarWriter] = {}
        for part in (SAMPLES, *self._columns, LEDGER, INDEX):
            make_folder(paths.shard(part, name).parent)
        for part in (SAMPLES, *self._columns):
            self._tars[part] = TarWriter(paths.shard(part, name))
        self._tars[SAMPLES].append(META_MEMBER, fingerprint_bytes(fingerprint))

    def add_sample(self, sample: Sample, image: bytes, extension: str) -> None:
        """Add one image: its record, and its own bytes as ``<key>.<extension>`` if the cache embeds images."""
        tar = self._tars[SAMPLES]
        tar.append(f"{sample.key}.json", sample.to_json(tuple(self.fingerprint.views.fields)))
        embed = self.fingerprint.images == "embed"
        self._image_members.append(tar.append(f"{sample.key}.{extension}", image) if embed else None)
        self._samples.append(sample)

    def add_records(self, names: Sequence[tuple[str, int]], values: Mapping[str, Array]) -> None:
        """Add what the teacher said of the next views.

        Args:
            names: (key, view) of each record, in the order of the samples.
            values: For each tap of the fingerprint's columns, float32 (B, *shape).

        Raises: BadRecordError if a value is not finite, or does not stay finite under the codec.
        """
        for column in self._columns.values():
            given = values[column.facts.tap]
            _refuse_non_finite(given, names, column.facts, "the teacher said")
            encoded = column.codec.encode(given)
            decoded = column.codec.decode(encoded, column.shape)
            _refuse_non_finite(decoded, names, column.facts, f"codec {column.facts.codec} makes of the teacher's value")
            # Logits are known up to a constant, and what they are for is probabilities.
            said = (_softmax(given), _softmax(decoded)) if column.facts.kind == "logits" else (given, decoded)
            self.fidelity[column.facts.name].update(*said)
            members = [member_name(key, view) for key, view in names]
            payload = column.layout.pack(encoded)
            checksums = append_records(self._tars[column.facts.name], column.layout, members, payload)
            column.add(decoded, checksums)

    def commit(self, bad: Sequence[BadSample]) -> ShardIndex:
        """Make the shard visible: tars, then ledger, then the index that names them all.

        Args:
            bad: Images of this shard's plan that are not in it.
        """
        num_views = self.fingerprint.views.num_views
        index = ShardIndex.from_samples(
            self._samples, self._image_members, num_views=num_views, num_view_fields=len(self.fingerprint.views.fields)
        )
        for name, column in self._columns.items():
            index.columns[name] = column.finish()
        for part, tar in self._tars.items():
            tar.commit()
            index.files[part] = FileFacts.of(tar.file)
        ledger = ledger_bytes(bad, self.fidelity)
        path = self.paths.shard(LEDGER, self.name)
        write_file(path, ledger, replace=False)
        index.files[LEDGER] = FileFacts.read(path)
        write_file(self.paths.shard(INDEX, self.name), index_bytes(index), replace=False)
        return index

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tar in self._tars.values():
            tar.discard()


def ledger_bytes(bad: Sequence[BadSample], fidelity: Mapping[str, Fidelity]) -> bytes:
    """The ledger of a shard: what is missing and why, and what the codecs cost. Not derivable from the tars."""
    measured = {name: asdict(each) for name, each in fidelity.items()}
    return dump_json({"bad": [asdict(each) for each in bad], "fidelity": measured})


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _joined(parts: list[Array], empty_shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return np.concatenate([np.empty(empty_shape, dtype), *parts])


def _refuse_non_finite(values: Array, names: Sequence[tuple[str, int]], facts: ColumnFacts, who: str) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    position = tuple(int(each) for each in np.argwhere(~finite)[0])
    key, view = names[position[0]]
    raise BadRecordError(
        f"{who} {values[position]} for key {key!r}, view {view}, tap {facts.tap} at position {list(position[1:])}; "
        "a cache holds finite numbers only. Check the teacher's weights and input; for values beyond 65,504 use "
        "`--codec bf16`, int8 or fp32. Finished shards are safe"
    )
