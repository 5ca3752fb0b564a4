import pytest

from kdcache.cancel import Cancelled, CancelToken


def test_a_token_is_cancelled_once_and_stays_so() -> None:
    token = CancelToken()
    assert not token.cancelled
    token.check()
    for _ in range(2):
        token.cancel()
        assert token.cancelled
        with pytest.raises(Cancelled):
            token.check()
