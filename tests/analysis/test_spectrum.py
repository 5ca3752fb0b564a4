import numpy as np
import torch

from kdcache.analysis.spectrum import RadialSpectrum, propose_layer_pairs


def test_a_flat_map_has_no_frequencies_and_a_chequerboard_only_the_highest() -> None:
    board = torch.from_numpy(np.indices((8, 8)).sum(axis=0) % 2).float().reshape(1, 64, 1) * 2 - 1
    radial = RadialSpectrum((8, 8))
    radial.update(board + 1)
    curves = radial.curves()
    np.testing.assert_allclose(curves["frequency"], np.arange(5) / 8)
    assert curves["log_amplitude"][0] == 0
    assert (curves["log_amplitude"][1:] < -10).all()


def test_one_wave_stands_at_its_frequency(random: np.random.Generator) -> None:
    rows = np.arange(16)[:, None]
    wave = np.cos(2 * np.pi * 4 * rows / 16) * np.ones((1, 16))
    maps = wave[None, :, :, None] + 0.01 * random.standard_normal((6, 16, 16, 3))
    radial = RadialSpectrum((16, 16))
    for part in np.array_split(maps, 3):
        radial.update(torch.from_numpy(part.reshape(len(part), 256, 3)))
    amplitude = radial.curves()["log_amplitude"]
    assert amplitude.argmax() == 4


def test_grids_need_not_be_square(random: np.random.Generator) -> None:
    radial = RadialSpectrum((3, 5))
    radial.update(torch.from_numpy(random.standard_normal((2, 15, 4))))
    curves = radial.curves()
    assert len(curves["frequency"]) == len(curves["log_amplitude"]) == 3
    assert np.isfinite(curves["log_amplitude"]).all()


def test_the_published_pairs_of_cait_and_deit() -> None:
    """High intensity in the two first and six last of 24 layers gives the lists of METHODS 3.1."""
    intensities = [3.0, 2.8, *np.linspace(1.2, 0.5, 8), *np.linspace(0.55, 1.4, 8), *np.linspace(2.4, 4.0, 6)]
    pairs = propose_layer_pairs(intensities, range(24), student_depth=12)
    assert pairs.teacher == [0, 1, 18, 19, 20, 21, 22, 23]
    assert pairs.student == [0, 1, 6, 7, 8, 9, 10, 11]
    assert "0.5 (block 9)" in pairs.reason


def test_pairs_for_shallow_students_and_for_none() -> None:
    intensities = [3.0, 1.0, 3.0, 3.0, 3.0]
    assert propose_layer_pairs(intensities, range(5), student_depth=None).student is None
    shallow = propose_layer_pairs(intensities, range(5), student_depth=2)
    assert (shallow.teacher, shallow.student) == ([3, 4], [0, 1])
    level = propose_layer_pairs([1.0, 1.0], [4, 9], student_depth=6)
    assert (level.teacher, level.student) == ([4, 9], [4, 5])
