"""The writing stage: one shard open at a time, committed when its last batch has come."""

import math
from collections.abc import Mapping

from kdcache.cache.base import BaseManifest
from kdcache.cache.extraction import Extraction, TaskWriter
from kdcache.cache.fidelity import decisive_error
from kdcache.cache.group import GroupManifest
from kdcache.errors import BadRecordError, Remedy, TooManyBadImagesError
from kdcache.teacher.batches import RecordBatch, ShardEnd
from kdcache.teacher.config import DEFAULT_MAX_ERROR, ExtractConfig
from kdcache.teacher.forward import TeacherOutputs


class ShardSink:
    """Takes batches with the teacher's outputs for them and turns them into shards.

    Args:
        extraction: What is written.
        config: Limits on bad images and codec errors.
        num_bad: Bad images in shards that are done already.

    Attributes:
        num_shards: Shards committed.
        num_bad: Bad images so far.
    """

    def __init__(self, extraction: Extraction, config: ExtractConfig, *, num_bad: int) -> None:
        self._extraction = extraction
        self._config = config
        self._writer: TaskWriter | None = None
        # Hashes of the views in the open shard: images that are alike have the same outputs.
        self._inputs: set[str] = set()
        self.num_shards = 0
        self.num_bad = num_bad

    def add(self, batch: RecordBatch, outputs: TeacherOutputs | None) -> None:
        """Write the images and records of one batch.

        Args:
            batch: Images and views.
            outputs: Of the teacher; None where no teacher runs.

        Raises: BadRecordError, DiskFullError.
        """
        writer = self._open(batch)
        self._inputs.update(each for image in batch.images for each in image.sample.pixel_hashes)
        if writer.base is not None:
            for image in batch.images:
                writer.base.add_sample(image.sample, image.data, image.extension)
        for group in writer.groups.values():
            if outputs is not None:
                group.add_records(batch.names, outputs.values, outputs.encoded)
            group.add_pixels(batch.names, batch.pixels, batch.jpegs)

    def end(self, end: ShardEnd) -> None:
        """Check the shard, then commit it.

        Raises: BadRecordError for a codec worse than asked or a teacher that gives the same for everything,
            TooManyBadImagesError (after the commit, so that nothing is lost).
        """
        writer = self._open(end)
        self._check_fidelity(writer)
        self._check_variety(writer)
        self._extraction.commit(writer, end.bad)
        self._writer = None
        self.num_shards += 1
        # Those of a base that is there already were accepted when it was made.
        if end.task.base:
            self.num_bad += len(end.bad)
            self.refuse_bad()

    def accept(self, base: BaseManifest, groups: Mapping[str, GroupManifest]) -> None:
        """Check a whole cache against the limits before its manifests are written, so that a refusal stays one.

        Args:
            base: Its images.
            groups: Its groups of this pass, by name.

        Raises: TooManyBadImagesError, BadRecordError.
        """
        if not self._config.add:
            self.num_bad = base.num_bad
            self.refuse_bad()
        for name, group in groups.items():
            for column, summary in group.columns.items():
                refuse_error(f"column {name}/{column}", summary.fidelity, self._config.max_error)

    def refuse_bad(self) -> None:
        """Fail when more than the stated fraction of the images is bad.

        Raises: TooManyBadImagesError.
        """
        num_bad, total = self.num_bad, self._extraction.base.source.num_samples
        if num_bad > self._config.max_bad * total:
            raise TooManyBadImagesError(
                f"{num_bad} of {total} images cannot be used, more than the fraction of {self._config.max_bad:g} that "
                f"is allowed; {self._extraction.paths}/ledger names each with its reason",
                remedy=Remedy.ACCEPT_BAD_IMAGES,
            )

    def discard(self) -> None:
        """Remove an unfinished shard."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def _open(self, item: RecordBatch | ShardEnd) -> TaskWriter:
        if self._writer is None:
            self._writer = self._extraction.open_shard(item.task)
            self._inputs.clear()
        assert self._writer.shard.name == item.task.shard.name, "a shard must end before the next begins"
        return self._writer

    def _check_fidelity(self, writer: TaskWriter) -> None:
        for group, own in writer.groups.items():
            for column, fidelity in own.fidelity.items():
                where = f"shard {writer.shard.name}, column {group}/{column}"
                refuse_error(where, fidelity.summary(), self._config.max_error)

    def _check_variety(self, writer: TaskWriter) -> None:
        if len(self._inputs) < 2:
            return  # the whole cache is checked before its manifest
        for group, own in writer.groups.items():
            for column, builder in own.columns.items():
                builder.refuse_constant(f"shard {writer.shard.name}, column {group}/{column}")


def refuse_error(where: str, found: Mapping[str, float], limit: float | None) -> None:
    """Refuse a codec that loses too much.

    Args:
        where: The column, for the message.
        found: A `Fidelity.summary`.
        limit: As ExtractConfig.max_error.

    Raises: BadRecordError.
    """
    if limit is None:
        limit = DEFAULT_MAX_ERROR if "centred_error" in found else math.inf
    if decisive_error(found) > limit:
        raise BadRecordError(
            f"{where}: {_error_text(found)}, more than max_error, {limit:g}", remedy=Remedy.FINER_CODEC
        )


def _error_text(found: Mapping[str, float]) -> str:
    """What a codec loses, the figure that decides first."""
    if "centred_error" not in found:
        return f"relative error {found['relative_error']:.3g}"
    return (
        f"error {found['centred_error']:.3g} of the spread around the channels' means ({found['relative_error']:.3g} "
        f"of the values themselves; the median channel loses {found['median_channel_error']:.3g} of its own, "
        f"{found['channels_above_tenth']:.0%} of the channels more than a tenth)"
    )
