"""A Ray actor with the faults of faulty_reader.py. The class is imported by Ray's processes."""

from kdcache.teacher import begin
from kdcache.teacher.model import Teacher
from kdcache.teacher.ray.actor import ShardActor
from kdcache.teacher.writing import ShardSink
from tests.teacher.ray.faulty_reader import FaultyReader, happen


class FaultyActor(ShardActor):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        begin.ImageReader = FaultyReader
        begin.Teacher = _faulty_teacher
        ShardSink.add = _faulty_add


_plain_add = ShardSink.add


def _faulty_add(self: ShardSink, batch: object, outputs: object) -> None:
    """Dies with half a shard written."""
    _plain_add(self, batch, outputs)
    happen(f"write-{batch.task.shard.name}")


def _faulty_teacher(*arguments: object, **keywords: object) -> Teacher:
    happen("teacher")
    return Teacher(*arguments, **keywords)
