import numpy as np
import torch

from kdcache.cache import Cache
from kdcache.images import decode_image
from kdcache.stream.batch import BatchBuffers, EncodedBuffer
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.views import ViewParams, replay_view


def test_buffers_are_views_of_the_batch(tiny_cache: Cache) -> None:
    columns = tiny_cache.columns
    buffers = BatchBuffers(4, columns, tiny_cache.manifest.fingerprint.views, pinned=False)
    buffers.pixels[2] = 7
    buffers.labels[:] = 3
    buffers.set_rows(np.array([[5, 1], [6, 0], [7, 1], [8, 0]]))
    for fields in buffers.fields.values():
        for field in fields:
            field[:] = 0
    batch = buffers.batch
    assert int(batch.pixels[2, 0, 0, 0]) == 7
    assert batch.labels.tolist() == [3] * 4
    assert batch.samples.tolist() == [5, 6, 7, 8]
    assert batch.views.tolist() == [1, 0, 1, 0]
    assert all(float(targets.decode().abs().max()) == 0 for name, targets in batch.targets.items() if "patch" in name)


def test_a_clone_survives_the_next_batch(tiny_cache: Cache) -> None:
    buffers = BatchBuffers(2, tiny_cache.columns, tiny_cache.manifest.fingerprint.views, pinned=False)
    buffers.pixels[:] = 1
    clone = buffers.batch.clone()
    buffers.pixels[:] = 2
    assert int(clone.pixels.max()) == 1


def test_images_are_normalised_with_the_teachers_numbers(tiny_cache: Cache) -> None:
    facts = tiny_cache.manifest.fingerprint.views
    buffers = BatchBuffers(1, [], facts, pinned=False)
    buffers.pixels[:] = 255
    images = buffers.batch.images
    assert images.shape == (1, 3, 16, 16)
    expected = (1 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
    torch.testing.assert_close(images[0, :, 0, 0], expected)


def test_moving_to_the_same_device_is_free(tiny_cache: Cache) -> None:
    batch = BatchBuffers(1, [], tiny_cache.manifest.fingerprint.views, pinned=False).batch
    assert batch.to("cpu") is batch


def test_files_are_packed_and_shared() -> None:
    buffer = EncodedBuffer(pinned=False)
    views = np.arange(36, dtype=np.int32).reshape(4, 9)
    packed = buffer.pack([b"abc", b"defgh"], np.array([1, 3]), views)
    assert [packed[row].numpy().tobytes() for row in range(len(packed))] == [b"abc", b"defgh", b"defgh", b"defgh"]
    assert packed.data.numpy().tobytes() == b"abcdefgh"
    kept = packed.clone()
    again = buffer.pack([b"x", b"yz"], np.array([2, 2]), views)
    assert again.data.data_ptr() == packed.data.data_ptr(), "memory is reused"
    assert kept[3].numpy().tobytes() == b"defgh"
    assert len(buffer.pack([], np.array([], int), views[:0])) == 0


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
            rgb = decode_image(files.encoded[row].numpy().tobytes()).rgb
            replayed = replay_view(rgb, view, size=facts.size, interpolation=facts.interpolation)
            np.testing.assert_array_equal(replayed, shown.pixels[row].numpy())
