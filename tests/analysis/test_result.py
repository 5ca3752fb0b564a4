import msgspec
import pytest

from kdcache.analysis.result import Depth


def test_a_result_takes_no_unknown_names() -> None:
    value = {"values": [1.0, 2.0], "has_u_shape": False, "minimum_at": 0}
    assert msgspec.convert(value, Depth).values == [1.0, 2.0]
    with pytest.raises(msgspec.ValidationError, match="has_v_shape"):
        msgspec.convert({**value, "has_v_shape": True}, Depth)
