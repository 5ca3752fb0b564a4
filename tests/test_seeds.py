import numpy as np

from kdcache.seeds import derived_bits, derived_key, derived_seed, uniforms


def test_every_purpose_has_its_own_numbers() -> None:
    seeds = {
        derived_seed("teacher", 0),
        derived_seed("student", 0),
        derived_seed("step", 0, 0, 0),
        derived_seed("step", 0, 1, 0),
    }
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_parts_do_not_run_into_each_other() -> None:
    assert derived_key("a", "bc") != derived_key("ab", "c")


def test_bits_are_frozen() -> None:
    """A cache's views and a run's order must not move with a numpy version: these are the values of this format."""
    assert derived_bits(3, "view", 0, 1, "digit-0001").tolist() == [
        18039952229587223921,
        4394574182890506244,
        9228182412707796031,
    ]


def test_skipped_bits_are_the_same_bits() -> None:
    bits = derived_bits(40, "x")
    for skip in range(40):
        assert derived_bits(40 - skip, "x", skip=skip).tolist() == bits[skip:].tolist()
    assert derived_bits(2, "x", skip=10**12).tolist() == derived_bits(6, "x", skip=10**12 - 4)[4:].tolist()


def test_bits_of_names_that_are_not_unicode() -> None:
    assert derived_bits(4, b"\xff".decode("utf-8", "surrogateescape")).dtype == np.uint64


def test_uniforms_reach_0_and_never_1() -> None:
    """53 bits each, so that every value is exact in a double."""
    bits = np.array([0, 2**64 - 1, 1 << 63], np.uint64)
    assert uniforms(bits) == [0.0, 1 - 2.0**-53, 0.5]
