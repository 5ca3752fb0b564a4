import numpy as np

from kdcache.cache import Cache
from kdcache.convert.hdf5_layout import byte_array, manifest_dataset, stored_fields, stored_files


def test_every_file_of_a_cache_but_tars_of_columns_is_kept_as_bytes(tiny_cache: Cache) -> None:
    groups = {name: group.manifest for name, group in tiny_cache.groups.items()}
    files = list(stored_files(tiny_cache.manifest, groups))
    assert len({each.dataset for each in files}) == len(files) == 3 * 4
    assert {each.part for each in files} == {"samples", "ledger", "index"}
    fields = list(stored_fields(tiny_cache.manifest, groups))
    [values, scale] = [each for each in fields if each.column.codec == "int8"]
    assert (values.shape, scale.shape) == ((40, 16, 24), (40, 16))
    assert values.dataset == "groups/vit-tiny-patch16-224/columns/blocks-1-patch-int8/values"


def test_tars_of_jpeg_files_are_kept_as_bytes(jpeg_root: object) -> None:
    from kdcache.cache import open_cache

    cache = open_cache(str(jpeg_root))
    groups = {name: group.manifest for name, group in cache.groups.items()}
    assert "groups/pixels/shards/jpeg/train-000000" in {each.dataset for each in stored_files(cache.manifest, groups)}
    assert not [each for each in stored_fields(cache.manifest, groups) if each.group == "pixels"]


def test_names_and_bytes() -> None:
    assert (manifest_dataset(""), manifest_dataset("a")) == ("manifest", "groups/a/manifest")
    np.testing.assert_array_equal(byte_array(b"\x00\xff"), [0, 255])
