"""Which images of a source make a cache, and in which order.

No torch here: a process that only reads images, as the one that looks for an image that kills, begins in a fraction
of a second.
"""

from dataclasses import dataclass, field

from kdcache.cache.facts import SourceFacts, SubsetFacts
from kdcache.cache.keys import keys_digest, labels_digest, safe_keys
from kdcache.errors import UsageError
from kdcache.images import Source
from kdcache.per_class import few_shot
from kdcache.seeds import derived_key
from kdcache.teacher.config import ExtractConfig


@dataclass(frozen=True)
class SourcePlan:
    """The images of a cache, in its order.

    Args:
        source: Where they are.
        positions: For each image its position in the source.
        keys: Their safe keys.
        subset: How they were drawn by class, if they were.
        rules: How their keys are found, where that is not the usual way.
    """

    source: Source
    positions: list[int]
    keys: list[str]
    subset: SubsetFacts | None = None
    rules: dict[str, str] = field(default_factory=dict)

    def facts(self) -> SourceFacts:
        """For the fingerprint."""
        images = self.source.images
        return SourceFacts(
            kind=self.source.kind,
            subset=self.subset,
            num_samples=len(self.positions),
            keys_sha256=keys_digest(images[position].key for position in self.positions),
            labels_sha256=labels_digest(images[position].label for position in self.positions),
            num_classes=self.source.num_classes,
            class_names=list(self.source.class_names),
            rules=self.rules,
        )


def plan_source(source: Source, config: ExtractConfig) -> SourcePlan:
    """Put the images in order and give them keys; a limit takes the first ones of that order.

    Raises: UsageError where images are drawn by class and a class has too few of them.
    """
    images, subset = source.images, None
    positions = list(range(len(images)))
    if config.per_class is not None:
        seed = config.seed if config.per_class_seed is None else config.per_class_seed
        subset = SubsetFacts(per_class=config.per_class, seed=seed)
        positions = few_shot(
            [image.label for image in images],
            [image.key for image in images],
            per_class=subset.per_class,
            seed=subset.seed,
            class_names=source.class_names,
        )
    if config.order == "shuffle":
        if source.in_order_only:
            raise UsageError(source.in_order_only)
        # Ranked by a hash of seed and key: independent of numpy, and of how many images there are beside it.
        positions.sort(key=lambda position: derived_key("order", config.seed, images[position].key))
    keys = safe_keys([image.key for image in images], [image.readable_key for image in images])
    positions = positions[: config.limit]
    return SourcePlan(
        source, positions, [keys[position] for position in positions], subset, config.source_rules.recorded()
    )
