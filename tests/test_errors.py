import pytest

from kdcache import errors


def test_every_error_is_a_kdcache_error() -> None:
    """The command line catches the base class and nothing else."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(classes) > 10
    assert all(issubclass(each, errors.KdcacheError) for each in classes)


def test_an_interrupted_run_knows_its_signal() -> None:
    with pytest.raises(errors.KdcacheError) as caught:
        raise errors.InterruptedRunError("saved", 15)
    assert isinstance(caught.value, errors.InterruptedRunError)
    assert caught.value.signal_number == 15
