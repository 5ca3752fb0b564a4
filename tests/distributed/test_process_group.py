import torch

from kdcache.distributed import WorkerEnv
from kdcache.distributed.process_group import any_rank, choose_device, process_group, sum_over_ranks

ALONE = WorkerEnv(0, 1, 0, "job")


def test_alone_nothing_is_started() -> None:
    with process_group(ALONE, torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        values = torch.ones(2)
        assert sum_over_ranks(values, ALONE) is values
        assert any_rank(True, ALONE, torch.device("cpu")) is True


def test_devices() -> None:
    assert choose_device("cpu", ALONE) == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto", ALONE).type == expected
