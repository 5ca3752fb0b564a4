"""Two processes, with all weights each (DDP) or half of them (FSDP2), against one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.distributed.env import WorkerEnv
from kdcache.errors import UsageError
from kdcache.train.sharding import check_divisible, divide_like, gather, own_part
from tests.forked import start_ranks
from tests.train import parallel_worker
from tests.train.parallel_worker import CASES, OF_BATCHES, trained

ALONE = WorkerEnv(0, 1, 0, "job")
QUICK = ("feature, clipped, averaged", "lift")
each_case = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)


@pytest.fixture(scope="module")
def two(
    request: pytest.FixtureRequest, tiny_root: Path, blocks_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What two processes make of the cases that are selected, by how they share the weights."""
    calls = (item.callspec.params for item in request.session.items if hasattr(item, "callspec"))
    wanted = sorted({params["name"] for params in calls if params.get("name") in {**CASES, **OF_BATCHES}})
    out = tmp_path_factory.mktemp("two") / "found.pt"
    start_ranks(2, parallel_worker.main, str(tiny_root), str(blocks_root), str(out), *wanted)
    return torch.load(out)


def assert_same(found: dict[str, Any], wanted: dict[str, Any], *, half: bool = False) -> None:
    for each in (found, wanted):
        # The one value that is not a mean over images: CKA of the tokens that a rank has.
        each["state"]["model"].pop("adapters.leap.similarity", None)
    assert len(found["losses"]) == len(wanted["losses"]) == 5
    assert found["losses"] == pytest.approx(wanted["losses"], rel=5e-3 if half else 1e-5)
    near = {"rtol": 2e-2, "atol": 2e-3} if half else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found["state"], wanted["state"], **near)
    torch.testing.assert_close(found["logits"], wanted["logits"], rtol=near["rtol"], atol=10 * near["atol"])


@each_case
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_and_the_state_of_one(
    two: dict[str, Any], tiny_root: Path, blocks_root: Path, name: str, parallel: str
) -> None:
    assert_same(two[parallel][name], trained(name, (tiny_root, blocks_root), ALONE), half="bf16" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_BATCHES)
def test_divided_weights_and_batch_statistics_are_as_under_ddp(two: dict[str, Any], name: str) -> None:
    assert_same(two["fsdp"][name], two["ddp"][name])


@each_case
def test_each_process_holds_half(two: dict[str, Any], name: str) -> None:
    """And a little more where a first side is odd."""
    whole = two["ddp"][name]["held"]
    assert whole / 2 <= two["fsdp"][name]["held"] < 0.56 * whole


def test_an_optimizer_that_looks_at_whole_weights_is_refused() -> None:
    for name in ("adamw", "sgd", "momentum", "nadam"):
        check_divisible(name)
    with pytest.raises(UsageError, match=r"parallel=fsdp divides every weight among the ranks, .* and lamb does not"):
        check_divisible("lamb")


def test_what_is_not_divided_stays_as_it_is() -> None:
    values = {"weights": [torch.ones(2), (3, None)], "step": 1}
    assert gather(values)["step"] == 1
    assert torch.equal(gather(values)["weights"][0], torch.ones(2))
    assert gather(values, keep=False) == {"weights": [None, (3, None)], "step": 1}
    plain = {"one": torch.ones(2)}
    assert divide_like(plain, {"one": torch.zeros(2)})["one"] is plain["one"]
    assert own_part(plain["one"]) is plain["one"]
