"""The writing stage: one shard open at a time, committed when its last batch has come."""

from collections.abc import Mapping

import numpy as np

from kdcache.cache.index import ShardIndex
from kdcache.cache.job import CacheJob
from kdcache.cache.manifest import Fingerprint
from kdcache.cache.writer import ShardWriter
from kdcache.errors import BadRecordError, TooManyBadImagesError
from kdcache.teacher.batches import RecordBatch, ShardEnd
from kdcache.teacher.config import ExtractConfig


class ShardSink:
    """Takes batches with what the teacher said of them and turns them into shards.

    Args:
        job: The cache.
        config: Limits on bad images and codec errors.
        fingerprint: The plan.
        num_bad: Bad images in shards that are done already.

    Attributes:
        num_shards: Shards committed.
        num_bad: Bad images so far.
    """

    def __init__(self, job: CacheJob, config: ExtractConfig, fingerprint: Fingerprint, *, num_bad: int) -> None:
        self._job = job
        self._config = config
        self._fingerprint = fingerprint
        self._writer: ShardWriter | None = None
        self.num_shards = 0
        self.num_bad = num_bad

    def add(self, batch: RecordBatch, said: Mapping[str, np.ndarray]) -> None:
        """Write the images and records of one batch.

        Raises: BadRecordError, DiskFullError.
        """
        writer = self._open(batch.shard.name)
        for image in batch.images:
            writer.add_sample(image.sample, image.data, image.extension)
        writer.add_records(batch.names, said)

    def end(self, end: ShardEnd) -> None:
        """Commit the shard.

        Raises: BadRecordError for a codec worse than asked or a teacher that says the same of everything,
            TooManyBadImagesError (after the commit, so that nothing is lost).
        """
        writer = self._open(end.shard.name)
        self._check_fidelity(writer)
        index = self._job.commit_shard(writer, end.bad)
        self._writer = None
        self.num_shards += 1
        self.num_bad += len(end.bad)
        self._check_variety(index, end.shard.name)
        self.refuse_bad(self.num_bad)

    def refuse_bad(self, num_bad: int) -> None:
        """Fail when more than the stated share of the images is bad.

        Raises: TooManyBadImagesError.
        """
        total = self._fingerprint.source.num_samples
        if num_bad > self._config.max_bad * total:
            raise TooManyBadImagesError(
                f"{num_bad} of {total} images cannot be used, more than the share of {self._config.max_bad:g} that is "
                f"allowed; {self._job.paths.root / 'ledger'} names each with its reason. Mend the source and extract "
                "into another folder, or accept them with --max-bad"
            )

    def discard(self) -> None:
        """Remove an unfinished shard."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
            self._writer = None

    def _open(self, name: str) -> ShardWriter:
        if self._writer is None:
            self._writer = self._job.open_shard(name)
        assert self._writer.name == name, "a shard must end before the next begins"
        return self._writer

    def _check_fidelity(self, writer: ShardWriter) -> None:
        limit = self._config.max_error
        for column, fidelity in writer.fidelity.items():
            error = fidelity.summary()["relative_error"]
            if limit is not None and error > limit:
                raise BadRecordError(
                    f"shard {writer.name}, column {column}: relative error {error:.3g}, more than --max-error "
                    f"{limit:g}; choose a finer codec (int8 < bf16 < fp16 < fp32) or allow more"
                )

    def _check_variety(self, index: ShardIndex, name: str) -> None:
        for column, each in index.columns.items():
            if each.statistics.count > 1 and not each.statistics.m2.any():
                raise BadRecordError(
                    f"shard {name}, column {column}: the teacher says exactly the same of every token; check its "
                    "weights, its input normalisation and the images"
                )
