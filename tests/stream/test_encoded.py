import numpy as np

from kdcache.cache import Cache
from kdcache.images import decode_image
from kdcache.stream.cached import CacheLoader
from kdcache.stream.encoded import EncodedBuffer
from kdcache.stream.loader import StreamConfig
from kdcache.views import ViewParams, replay_view


def test_files_are_packed_and_shared() -> None:
    buffer = EncodedBuffer(pinned=False)
    views = np.arange(36, dtype=np.int32).reshape(4, 9)
    packed = buffer.pack([b"abc", b"defgh"], 2, views)
    assert [packed[row].numpy().tobytes() for row in range(len(packed))] == [b"abc", b"abc", b"defgh", b"defgh"]
    assert packed.data.numpy().tobytes() == b"abcdefgh"
    kept = packed.clone()
    again = buffer.pack([b"x", b"yz"], 2, views)
    assert again.data.data_ptr() == packed.data.data_ptr(), "memory is reused"
    assert kept[3].numpy().tobytes() == b"defgh"
    assert len(buffer.pack([], 2, views[:0])) == 0


def test_a_stream_of_files_gives_the_teacher_s_pixels_to_who_replays_them(tiny_cache: Cache) -> None:
    facts = tiny_cache.manifest.fingerprint.views
    settings = {"batch_size": 4, "views_per_sample": 2, "window": 2}
    encoded = CacheLoader(tiny_cache, [], StreamConfig(images="encoded", **settings))
    pixels = CacheLoader(tiny_cache, [], StreamConfig(check_pixels=1.0, **settings))
    for files, shown in zip(encoded, pixels, strict=True):
        assert files.encoded is not None and shown.pixels is not None
        assert files.pixels is None
        for row in range(4):
            view = ViewParams(*files.encoded.views[row].tolist())
            rgb = decode_image(files.encoded[row].numpy().tobytes()).pixels
            replayed = replay_view(rgb, view, size=facts.size, interpolation=facts.interpolation)
            np.testing.assert_array_equal(replayed, shown.pixels[row].numpy())
