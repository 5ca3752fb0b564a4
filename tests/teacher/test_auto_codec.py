from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import codecs
from kdcache.cache.codecs import CODECS
from kdcache.cache.facts import CodecChoice, ColumnFacts
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.job import Job
from kdcache.cache.paths import CachePaths
from kdcache.distributed.env import worker_env
from kdcache.errors import CacheMismatchError, KdcacheError, UsageError
from kdcache.models import parse_tap
from kdcache.teacher import auto_codec
from kdcache.teacher.auto_codec import CodecChooser, choose_codec
from kdcache.teacher.extract import ExtractReport, extract
from kdcache.teacher.model import TapFacts
from tests.conftest import GROUP, file_hashes, tiny_add, tiny_extract
from tests.teacher.poison import PoisonedReader


@pytest.fixture(autouse=True)
def own_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the package alone: other tests define more."""
    own = {name: codec for name, codec in CODECS.items() if codec.__module__.startswith("kdcache.")}
    monkeypatch.setattr(codecs, "CODECS", own)


@pytest.fixture
def tokens(random: np.random.Generator) -> np.ndarray:
    return random.standard_normal((4, 64, 96)).astype(np.float32)


@pytest.mark.parametrize(("limit", "expected"), [(0.1, "int4"), (0.08, "int8"), (0.005, "fp16"), (1e-6, "fp32")])
def test_the_smallest_codec_within_the_limit_is_taken(tokens: np.ndarray, limit: float, expected: str) -> None:
    codec, choice = choose_codec(tokens, limit)
    assert codec.name == expected
    whole = [trial.codec for trial in choice.trials if not trial.codec.startswith("factor")]
    assert whole[:2] == ["int4", "int8"], "the smaller first, then the more exact"
    errors = {trial.codec: trial.error for trial in choice.trials}
    assert errors["fp32"] == 0
    assert errors[expected] <= 0.9 * limit
    assert (choice.max_error, choice.num_views) == (limit, 4)


def test_beside_a_channel_that_is_huge_in_few_tokens_it_does_not_take_what_ruins_the_others(tokens: np.ndarray) -> None:
    tokens[:, ::10, 5] += 300
    codec, choice = choose_codec(tokens, 0.03)
    errors = {trial.codec: trial.error for trial in choice.trials}
    assert errors["int8"] > 0.05
    assert codec.name == "fp8"
    assert choose_codec(tokens, 0.0125)[0].name == "int8c"


def test_codecs_that_do_not_fit_are_left_out(tokens: np.ndarray) -> None:
    assert _names(choose_codec(tokens, 1.0)[1]) == set(codecs.CODECS) - {"topk", "sampled"}
    assert _names(choose_codec(tokens[:, 0], 1.0)[1]) == set(codecs.CODECS) - {"topk", "sampled", "int8c", "factor"}


def _names(choice: CodecChoice) -> set[str]:
    return {trial.codec.partition("=")[0] for trial in choice.trials}


def test_much_error_is_room_for_few_directions(tokens: np.ndarray, random: np.random.Generator) -> None:
    low = (random.standard_normal((4, 64, 8)) @ random.standard_normal((4, 8, 96))).astype(np.float32) + tokens / 10
    codec, choice = choose_codec(low, 0.3)
    assert (codec.name, codec.params) == ("factor", {"rank": 12}), choice
    assert choose_codec(tokens, 0.3)[0].name == "int4", "where all directions vary alike it does not pay"


def test_values_beyond_fp16_are_kept_by_what_can_and_those_that_are_not_finite_are_left_to_the_writer(
    tokens: np.ndarray,
) -> None:
    codec, choice = choose_codec(tokens * 1e6, 0.001)
    assert codec.name == "fp32"
    out_of_range = {trial.codec.partition("=")[0] for trial in choice.trials if trial.error is None}
    assert out_of_range == {"fp16", "int4", "int8c", "factor"}
    tokens[0, 0, 0] = np.nan
    codec, choice = choose_codec(tokens, 0.1)
    assert codec.name == "fp32"
    assert all(trial.error is None for trial in choice.trials)


def columns(report: ExtractReport, group: str = GROUP) -> list[ColumnFacts]:
    return report.groups[group].fingerprint.columns


def test_a_pass_chooses_once_says_by_what_and_resumes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_extract(tmp_path / "c", codec="auto", max_error=0.02, taps=("blocks.1/patch", "head/logits"))
    report = extract(config)
    patch, logits = columns(report)
    assert patch.choice is not None
    assert logits.choice is None
    assert patch.choice.num_views == config.batch_size
    assert report.groups[GROUP].columns[patch.name].fidelity["centred_error"] < 0.02
    by_name = extract(replace(config, codec=patch.codec, out=tmp_path / "named"))
    assert columns(by_name)[0].choice is None
    before = file_hashes(config.out)
    # Now the same choice would come out otherwise: one that was made is not made again.
    monkeypatch.setattr(auto_codec, "choose_codec", lambda values, limit: pytest.fail("chosen again"))
    assert extract(config).num_shards == 0
    assert file_hashes(config.out) == before
    for path in (config.out / "manifest.json", config.out / GROUP / "manifest.json", config.out / "index"):
        path.rename(path.with_name(f"{path.name}.gone"))
    resumed = extract(config)
    assert resumed.num_shards == 3
    assert columns(resumed) == [patch, logits]


def test_another_limit_is_another_plan(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path / "c", taps=("blocks.1/patch:auto",))
    assert columns(extract(config))[0].choice.max_error == 0.1
    with pytest.raises(CacheMismatchError, match=r"choice\.max_error: the cache has 0\.1, this run wants 0\.2"):
        extract(replace(config, max_error=0.2))


def test_a_group_that_is_added_chooses_too(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c"))
    added = tiny_add(tmp_path / "c", taps=("blocks.-1/patch:auto", "blocks.-1/prefix:auto"), max_error=0.05)
    report = extract(added)
    choices = [column.choice for column in columns(report, "wide")]
    assert [choice.num_views for choice in choices if choice is not None] == [5, 5]
    assert extract(added).num_shards == 0


def test_logits_have_no_such_choice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto chooses for features; logits are stored as fp16, fp32 or topk"):
        extract(tiny_extract(tmp_path / "c", taps=("head/logits:auto",)))


def test_an_image_that_kills_the_process_is_found_at_the_third_attempt(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path, batch_size=4)
    job = Job(CachePaths(tmp_path).group(GROUP), "other", GroupFingerprint)
    job.count_attempt("codec-choice")
    job.count_attempt("codec-choice")
    job.close()
    chooser = CodecChooser(config, worker_env(), RedTeacher(), PoisonedReader(), range(2, 8))
    tap = TapFacts(parse_tap("blocks.1/patch"), (16, 3), (4, 4))
    assert chooser(tap)[1].num_views == 4, "images 2, 4, 5 and 7: 3 kills, 6 is refused"
    assert not job.attempts("codec-choice").exists()


class RedTeacher:
    """Its tokens are the red of the images."""

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        red = pixels[:, :4, :4, 0].reshape(len(pixels), 16, 1).astype(np.float32)
        assert sorted(red[:, 0, 0]) == [2, 4, 5, 7]
        return {"blocks.1/patch": red * np.arange(1, 4) + np.arange(16)[:, None]}


def test_images_of_which_none_can_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    config = tiny_extract(tmp_path, batch_size=4)
    chooser = CodecChooser(config, worker_env(), RedTeacher(), PoisonedReader(), [6])
    with pytest.raises(KdcacheError, match="none of the 1 images of the first shard can be read"):
        chooser(TapFacts(parse_tap("blocks.1/patch"), (16, 3), (4, 4)))
