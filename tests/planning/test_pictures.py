from pathlib import Path

from PIL import Image

from kdcache.planning.pictures import HEIGHT, IMAGE_BYTES, WIDTH, write_pictures


def test_pictures_are_like_photographs_in_size(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    for path in paths:
        with Image.open(path) as image:
            assert image.size == (WIDTH, HEIGHT)
        assert 0.7 * IMAGE_BYTES < path.stat().st_size < 1.4 * IMAGE_BYTES
    assert len({path.read_bytes() for path in paths}) == 3
