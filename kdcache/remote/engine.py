"""obstore: imported when it is needed, clients with time limits and retries, and what is tried again above it."""

import os
from datetime import timedelta
from functools import cache
from types import ModuleType
from typing import Any

from kdcache.errors import MissingExtraError, StorageError

# Seconds without an answer after which a request is a stalled one and is made again.
TIMEOUT_VARIABLE = "KDCACHE_REMOTE_TIMEOUT"
_DEFAULT_TIMEOUT_S = 30.0
# An upload is one request however large its file is: slower than this it is taken for stalled.
_LEAST_UPLOAD_BYTES_PER_S = 1 << 20
_MAX_RETRIES = 10
_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}


def engine() -> ModuleType:
    """The module obstore. Raises: MissingExtraError."""
    try:
        import obstore
        import tenacity  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"s3://, gs:// and az:// need {error.name}, which is not installed: pip install 'kdcache[cloud]'"
        ) from None
    return obstore


def exceptions() -> Any:
    """The module of obstore's errors. Raises: MissingExtraError."""
    engine()
    import obstore.exceptions

    return obstore.exceptions


def client(scheme: str, bucket: str, *, upload_bytes: int | None = None) -> Any:
    """A client of a bucket, which finds credentials by the service's own chain.

    Args:
        scheme: s3, gs or az.
        bucket: Its name.
        upload_bytes: What one request will send; None for one that reads.

    Raises: StorageError for a time limit that is none.
    """
    timeout_s = _timeout_s()
    if upload_bytes is None:
        return _client(scheme, bucket, timeout_s, True)
    # One of a few limits, so that few clients are made.
    while timeout_s < upload_bytes / _LEAST_UPLOAD_BYTES_PER_S:
        timeout_s *= 4
    return _client(scheme, bucket, timeout_s, False)


def retrying(
    kind: type[Exception],
    *,
    attempts: int | None = None,
    max_seconds: float | None = None,
    pause_s: float | None = None,
) -> Any:
    """Attempts at something that raises this kind of error; the last error is raised.

    Args:
        kind: Of the error.
        attempts, max_seconds: Limits, one of them.
        pause_s: Between two; None for a random one that grows to 15 s.
    """
    import tenacity

    growing = tenacity.wait_random_exponential(multiplier=0.2, max=15)
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(kind),
        stop=tenacity.stop_after_delay(max_seconds or 0) if attempts is None else tenacity.stop_after_attempt(attempts),
        wait=growing if pause_s is None else tenacity.wait_fixed(pause_s),
        reraise=True,
    )


@cache
def _client(scheme: str, bucket: str, timeout_s: float, is_reading: bool) -> Any:
    """Clients are kept, as are their connections."""
    from obstore.store import AzureStore, GCSStore, S3Store

    limits: dict[str, Any] = {"timeout": timedelta(seconds=timeout_s)}
    # Options given to a client replace those that it would find in the environment.
    if os.environ.get(f"{_PREFIXES[scheme]}_ALLOW_HTTP", "").lower() in ("true", "1"):
        limits["allow_http"] = True
    if is_reading:
        # Not of uploads: while a body is sent nothing is read, so that this would end every long one.
        limits["read_timeout"] = timedelta(seconds=timeout_s / 2)
    retries: Any = {
        "max_retries": _MAX_RETRIES,
        "retry_timeout": timedelta(seconds=3 * timeout_s),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
    }
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme]
    return kind(bucket, client_options=limits, retry_config=retries)


def _timeout_s() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    try:
        seconds = float(text or _DEFAULT_TIMEOUT_S)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise StorageError(f"{TIMEOUT_VARIABLE} is {text!r}; wanted seconds above 0, such as 30")
    return seconds
