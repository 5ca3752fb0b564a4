"""Choosing codecs by what they lose on the first views of a pass: the smallest one that keeps to a limit."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property

import numpy as np

from kdcache.cache.codecs import Codec, token_codecs
from kdcache.cache.facts import CodecChoice, CodecTrial
from kdcache.cache.fidelity import Fidelity, decisive_error
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.job import Job
from kdcache.cache.paths import CachePaths
from kdcache.cache.places import writing_paths
from kdcache.cache.record import Array
from kdcache.distributed.env import WorkerEnv
from kdcache.durable import remove
from kdcache.errors import KdcacheError
from kdcache.teacher.config import DEFAULT_MAX_ERROR, ExtractConfig
from kdcache.teacher.model import TapFacts, Teacher
from kdcache.teacher.quarantine import MAX_ATTEMPTS, find_poison
from kdcache.teacher.reading import Reader, ReadImage, read_shard

_ATTEMPT = "codec-choice"


class CodecChooser:
    """Chooses the codec of a tap; what was chosen when the pass was begun stays chosen.

    Args:
        config: Of the pass; its batch size is how many views are looked at.
        env: This worker.
        teacher: Its taps must be set before the first choice.
        reader: Of the images.
        numbers: Images of the first shard.
    """

    def __init__(
        self, config: ExtractConfig, env: WorkerEnv, teacher: Teacher, reader: Reader, numbers: Sequence[int]
    ) -> None:
        self._config, self._env, self._teacher = config, env, teacher
        self._reader, self._numbers = reader, numbers
        self._limit = DEFAULT_MAX_ERROR if config.max_error is None else config.max_error

    def __call__(self, tap: TapFacts) -> tuple[Codec, CodecChoice]:
        """The smallest codec that loses at most its `auto_share` of the limit of these views, and what each one loses.

        Args:
            tap: Of tokens or an embedding.

        Raises: KdcacheError where no image can be read.
        """
        name = str(tap.tap)
        for column in self._begun.columns if self._begun is not None else ():
            if column.tap == name and column.choice is not None and column.choice.max_error == self._limit:
                return column.make_codec(), column.choice
        return choose_codec(self._outputs[name], self._limit)

    @cached_property
    def _paths(self) -> CachePaths:
        # Once: for a cache on object storage this asks what is there.
        return writing_paths(self._config.out).group(self._config.group_name)

    @cached_property
    def _begun(self) -> GroupFingerprint | None:
        if not self._paths.root.is_dir():
            return None
        with closing(Job(self._paths, self._env.job_id, GroupFingerprint)) as job:
            return job.known()

    @cached_property
    def _outputs(self) -> dict[str, Array]:
        """What the teacher gives for the first views."""
        with closing(Job(self._paths, self._env.job_id, GroupFingerprint)) as job:
            attempt = job.count_attempt(_ATTEMPT)
            pixels = self._first_pixels(is_suspect=attempt >= MAX_ATTEMPTS)
            remove(job.attempts(_ATTEMPT))
        return self._teacher.run(pixels)

    def _first_pixels(self, *, is_suspect: bool) -> Array:
        """(B, S, S, 3) uint8. Args: is_suspect: Whether an image seems to kill the process that reads it."""
        timeout_s, count = self._config.image_timeout_s, self._config.batch_size
        poison: dict[int, str] = {}
        if is_suspect:
            poison = find_poison(self._reader.read, self._numbers, timeout_s=timeout_s)
        pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-choose")
        pixels: list[Array] = []
        try:
            for image in read_shard(self._reader, self._numbers, poison, pool, ahead=1, timeout_s=timeout_s):
                if isinstance(image, ReadImage):
                    pixels += list(image.pixels)
                if len(pixels) >= count:
                    break
        finally:
            # A thread that hangs in a decoder would keep a pool that waits from ever telling.
            pool.shutdown(wait=False, cancel_futures=True)
        if not pixels:
            raise KdcacheError(
                f"{self._config.out}: none of the {len(self._numbers)} images of the first shard can be read, so there "
                "is nothing to choose a codec by; name one, or see to the images"
            )
        return np.stack(pixels[:count])


def choose_codec(values: Array, limit: float) -> tuple[Codec, CodecChoice]:
    """Try every codec of tokens.

    Args:
        values: (B, N, C) tokens or (B, C) embeddings, float32.
        limit: Largest `decisive_error`.

    Returns: the smallest codec whose error is at most its `auto_share` of the limit, the most exact one of those of
        that size, and what all of them lose; float32 where none is, as of values that are not finite, which the
        writer names.
    """
    shape = values.shape[1:]
    codecs = token_codecs(shape)
    trials = [
        CodecTrial(codec=text, stride_bytes=codec.layout(shape).stride_bytes, error=_error(codec, values))
        for text, codec in codecs.items()
    ]
    trials.sort(key=lambda each: (each.stride_bytes, np.inf if each.error is None else each.error))
    chosen = next((each.codec for each in trials if _keeps_to(limit, each, codecs[each.codec])), "fp32")
    return codecs[chosen], CodecChoice(max_error=limit, num_views=len(values), trials=trials)


def _keeps_to(limit: float, trial: CodecTrial, codec: Codec) -> bool:
    return trial.error is not None and trial.error <= codec.auto_share * limit


def _error(codec: Codec, values: Array) -> float | None:
    """What `max_error` looks at, to four digits; None where a value is not finite, before or under the codec."""
    if not np.isfinite(values).all():
        return None
    decoded = codec.decode(codec.encode(values), values.shape[1:])
    if not np.isfinite(decoded).all():
        return None
    fidelity = Fidelity()
    fidelity.update(values, decoded)
    # The last digits may differ between workers on different devices, and would make different plans.
    return float(f"{decisive_error(fidelity.summary()):.4g}")
