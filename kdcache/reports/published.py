"""Numbers the papers published, to stand beside one's own.

Source: arXiv 2511.15572 (Encoding mismatch), its repository's ``Raw data/comparison``: ``svd_pca/svd_rank_table.md``
and ``sep/sep_comparison_table.csv``. Of 1,000 validation images of ImageNet-1K, patch tokens of the last layer before
the final norm, uncentred.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdcache.analysis.result import Layer, SourceFacts

RANK_LEVELS = ("80", "90", "95", "99")
SEP_LEVELS = ("50", "60", "70", "80", "90")


@dataclass(frozen=True)
class Published:
    """One model's rows.

    Args:
        model: As the paper calls it.
        timm_names: The checkpoint; without its tag where timm takes it when none is given.
        num_channels: C.
        last_block, num_tokens: Of the layer the rows are of.
        per_image: Dimensions of an image at `RANK_LEVELS`, 99th percentile over the images.
        shared: The same in the basis that all images share.
        sep_bins: Bins in FFT order at `SEP_LEVELS`, of C.
        caveat: What is odd about the row.
    """

    model: str
    timm_names: tuple[str, ...]
    num_channels: int
    per_image: tuple[int, ...]
    shared: tuple[int, ...]
    sep_bins: tuple[int, ...]
    last_block: int
    num_tokens: int
    caveat: str = ""


def _names(base: str, tag: str, *, is_default: bool = True) -> tuple[str, ...]:
    return (f"{base}.{tag}", base) if is_default else (f"{base}.{tag}",)


_AUGREG = "augreg_in21k_ft_in1k"
# fmt: off
PUBLISHED = (
    Published("ViT-Tiny (21k->1k)", _names("vit_tiny_patch16_224", _AUGREG), 192,
              (1, 2, 7, 52), (1, 17, 71, 154), (97, 116, 135, 153, 173), 11, 196),
    Published("CaiT-S24", _names("cait_s24_224", "fb_dist_in1k"), 384,
              (14, 34, 61, 121), (167, 247, 302, 359), (192, 230, 270, 309, 346), 23, 196),
    Published("DeiT-Small", _names("deit_small_patch16_224", "fb_in1k"), 384,
              (30, 59, 89, 146), (205, 278, 324, 369), (193, 231, 269, 306, 346), 11, 196),
    Published("Swin-Small", _names("swin_small_patch4_window7_224", "ms_in1k", is_default=False), 768,
              (3, 7, 15, 33), (129, 336, 495, 691), (385, 460, 538, 614, 692), 3, 49),
    Published("ViT-Large (21k->1k)", _names("vit_large_patch16_224", _AUGREG), 1024,
              (5, 16, 39, 115), (255, 498, 694, 933), (512, 613, 717, 820, 921), 23, 196),
    Published("ViT-Huge MAE", _names("vit_huge_patch14_224", "mae", is_default=False), 1280,
              (1, 15, 58, 164), (1, 83, 371, 977), (632, 759, 889, 1024, 1153), 31, 256),
    Published("ViT-Base DINOv2", _names("vit_base_patch14_dinov2", "lvd142m"), 768,
              (19, 39, 67, 146), (384, 519, 606, 704), (384, 461, 539, 616, 691), 11, 256),
    Published("ViT-Large DINOv2", _names("vit_large_patch14_dinov2", "lvd142m"), 1024,
              (30, 58, 93, 173), (525, 696, 813, 940), (509, 614, 716, 818, 921), 23, 256),
    Published("ViT-Base DINO", _names("vit_base_patch16_224", "dino", is_default=False), 768,
              (39, 75, 109, 165), (382, 529, 624, 731), (381, 459, 538, 613, 692), 11, 196),
    Published("ViT-Small DINO", _names("vit_small_patch16_224", "dino", is_default=False), 384,
              (41, 72, 101, 152), (232, 297, 336, 373), (183, 224, 265, 304, 344), 11, 196),
    Published("ViT-Base MAE", _names("vit_base_patch16_224", "mae", is_default=False), 768,
              (1, 7, 34, 113), (1, 58, 235, 585), (379, 452, 526, 606, 688), 11, 196,
              "SEP of 196 tokens, a single image"),
    Published("ViT-Large MAE", _names("vit_large_patch16_224", "mae", is_default=False), 1024,
              (1, 9, 38, 120), (1, 49, 268, 765), (512, 611, 714, 817, 922), 23, 196),
    Published("ViT-Base CLIP", _names("vit_base_patch16_clip_224", "openai", is_default=False), 768,
              (6, 27, 60, 135), (129, 340, 502, 704), (384, 458, 536, 618, 692), 11, 196),
    Published("ViT-Large CLIP", _names("vit_large_patch14_clip_224", "openai", is_default=False), 1024,
              (15, 46, 89, 181), (230, 506, 713, 945), (511, 616, 713, 821, 922), 23, 256),
)
# fmt: on


def published_for(source: SourceFacts, layers: Sequence[Layer]) -> Published | None:
    """The published rows of what was analysed; None unless the last layer analysed could be the one they are of.

    That is: a name among the fourteen, its last block, its numbers of tokens and channels, and weights that are not
    random. Weights from a file or a run may still be others, and the row's name then says so.
    """
    name = source.teacher.removeprefix("hf_hub:").removeprefix("hf-hub:").removeprefix("timm/")
    known = next((each for each in PUBLISHED if name in each.timm_names), None)
    if known is None or not layers or source.weights == "random":
        return None
    last = layers[-1]
    if (last.block, last.num_tokens, last.num_channels) != (known.last_block, known.num_tokens, known.num_channels):
        return None
    return known if source.weights == "hub" else replace(known, model=f"{known.model}, perhaps of other weights")
