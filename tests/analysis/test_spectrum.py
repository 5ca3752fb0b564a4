import numpy as np
import pytest
import torch

from kdcache.analysis.spectrum import RadialSpectrum, propose_layer_pairs


def test_stripes_stand_at_the_highest_frequency() -> None:
    stripes = torch.from_numpy(np.indices((8, 8))[0] % 2).float().reshape(1, 64, 1) + 1
    radial = RadialSpectrum((8, 8))
    radial.update(stripes)
    curves = radial.curves()
    np.testing.assert_allclose(curves["frequency"], np.arange(5) / 8)
    assert curves["log_amplitude"][0] == 0
    assert (curves["log_amplitude"][1:4] < -10).all()
    assert curves["log_amplitude"][4] > curves["log_amplitude"][3] + 0.5


def test_flat_maps_change_nothing_but_their_number(random: np.random.Generator) -> None:
    maps = np.repeat(random.standard_normal((3, 4, 8, 2)), 4, axis=1).reshape(3, 16, 16).transpose(0, 2, 1)
    smooth = torch.from_numpy(np.ascontiguousarray(maps.transpose(0, 2, 1)))
    with_flat = torch.cat([smooth, torch.zeros(3, 16, 5), torch.full((3, 16, 2), 7.0)], dim=-1)
    found = []
    for features in (smooth, with_flat, with_flat * 1e-9):
        radial = RadialSpectrum((4, 4))
        radial.update(features)
        found.append(radial.curves())
    for other in found[1:]:
        np.testing.assert_allclose(other["log_amplitude"], found[0]["log_amplitude"], atol=1e-3)
        assert other["num_flat"] == 3 * 7
    assert found[0]["num_flat"] == 0


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


def test_two_loud_first_and_six_loud_last_layers_give_the_published_pairs() -> None:
    """Intensities made up in the described shape give the lists that arXiv:2412.19055 prints."""
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


def test_no_images_have_no_spatial_spectrum(random: np.random.Generator) -> None:
    radial = RadialSpectrum((4, 4))
    radial.update(torch.zeros(0, 16, 5))
    assert not radial.curves()["log_amplitude"].any()
    features = torch.from_numpy(random.standard_normal((3, 16, 5)))
    radial.update(features)
    alone = RadialSpectrum((4, 4))
    alone.update(features)
    np.testing.assert_array_equal(radial.curves()["log_amplitude"], alone.curves()["log_amplitude"])


def test_no_layers_have_no_pairs() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        propose_layer_pairs([], [], student_depth=12)
