"""What to do about an error or a fault, in words; no module below knows a verb or a flag."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdcache.errors import KdcacheError, Remedy, one_line

if TYPE_CHECKING:
    from kdcache.cache.verify import Fault

_WORDS = {
    # A cache on disk.
    Remedy.REPAIR: "run `kdcache verify --repair`, then the same `kdcache extract` again",
    Remedy.REBUILD: "restore the file, or run `kdcache verify --rebuild`",
    Remedy.ACCEPT_LOSS: (
        "restore the file, have the shard extracted again with `kdcache verify --repair`, or continue without the "
        "names and reasons of these images with `kdcache verify --rebuild --accept-loss`"
    ),
    Remedy.REBUILD_OR_DELETE_GROUP: (
        "run `kdcache verify --rebuild --group {group}`, or delete the folder {group} and extract it again"
    ),
    Remedy.RESTORE_BASE_OR_DELETE_GROUP: (
        "restore the images that belong to it, or delete the folder {group} and extract it again "
        "with `kdcache extract --add --group {group}`"
    ),
    Remedy.REMOVE_FILE: "remove it",
    Remedy.OTHER_TEACHER: "the cache is not this teacher's: extract again, or run with the versions in the manifest",
    Remedy.UPDATE: "update kdcache",
    Remedy.NAME_HELD: "name one that it holds, or add what is missing with `kdcache extract --add`",
    # The operating system.
    Remedy.ALLOW_MORE_FILES: "allow more open files (`ulimit -n 4096`) and run the same command again",
    Remedy.FREE_MEMORY: "free memory, or use smaller batches or a smaller window, and run the same command again",
    Remedy.ALLOW_READING: "let this user read it, and run the same command again",
    Remedy.RESTORE_FILE: "restore it",
    Remedy.ANOTHER_FOLDER: "choose another --out",
    Remedy.CHECK_STORAGE: "check the disk or the mount, and run the same command again",
    # An extraction.
    Remedy.EXTRACT: "make a cache with `kdcache extract --out {path}`",
    Remedy.EXTRACT_ELSEWHERE: "extract again into another folder",
    Remedy.FINISH_EXTRACTION: (
        "run the same `kdcache extract` (or `kdcache convert`) again, it makes only what is missing"
    ),
    Remedy.SAME_PLAN: (
        "run with the same settings and versions to resume, or choose another folder (--out) or "
        "another group (--add --group NAME)"
    ),
    Remedy.ADD_GROUP: (
        "to put this teacher on the views that are there, run with --add; for other images or "
        "views choose another --out"
    ),
    Remedy.ADD_PATCH_TAP: "add one with `kdcache extract --add --tap blocks.-1/patch`",
    Remedy.ADD_PIXELS: "add them with `kdcache extract --add --pixels raw`, or use replayed views",
    Remedy.WIDER_CODEC: (
        "check the teacher's weights and input; for values beyond 65,504 use `--codec bf16`, int8 or fp32 "
        "(with another --out if there are finished shards, which have this codec)"
    ),
    Remedy.FINER_CODEC: (
        "choose a finer --codec (int4 < int8 < int8c < bf16 < fp16 < fp32; beside a few huge channels int8c, or fp8 "
        "where a view has fewer than 16 tokens), "
        "or allow more with --max-error"
    ),
    Remedy.ACCEPT_BAD_IMAGES: "repair the source and extract into another folder, or accept them with --max-bad",
    Remedy.REMOVE_BAD_IMAGES: "take them out of the source (`kdcache extract` lists bad images by name)",
    Remedy.MAKE_ROOM: (
        "make room, choose a smaller codec (`--codec int8`), fewer --views or another disk; "
        "--no-space-check starts all the same"
    ),
    Remedy.SMALLER_BATCH: (
        "run again with a smaller --batch-size; finished shards belong to the plan with this "
        "batch size, so choose another --out if there are any"
    ),
    # Images and weights.
    Remedy.PASS_SOURCE: "pass the source it was extracted from with --data",
    Remedy.KEYS_TO_LAST_DOT: (
        "end keys at the last one with `--tar-keys last-dot`, or take one image of each with --image-member, one of "
        "{choices}"
    ),
    Remedy.PREFIX_KEYS: "or put the name of its tar in front of every key with `--key-prefix tar`",
    Remedy.CHOOSE_IMAGE: "choose with --image-member (of --eval-data: --set eval.image_member=), one of {choices}",
    Remedy.CHOOSE_LABELS: "choose with --label-member (of --eval-data: --set eval.label_member=), one of {choices}",
    Remedy.NAME_CLASSES: (
        "give the names of the classes in their order with --class-map FILE, or leave these labels out with "
        "`--label-member none`"
    ),
    Remedy.NAME_FOLDERS: "or, if these folders are the classes, name them in a file with --class-map FILE",
    Remedy.NAME_WEIGHTS: "name the weights it was extracted with by --teacher-weights",
    Remedy.LOCAL_WEIGHTS: (
        "check the network and HF_HOME, or pass a local file or folder with `--teacher-weights FILE` "
        "(`--student-weights FILE`)"
    ),
    Remedy.LOCAL_MODEL: (
        "check the name, the network and HF_HOME, or copy the model's folder from where there is a network and name it "
        "with `local-dir:FOLDER`"
    ),
    Remedy.MODEL_OF_WEIGHTS: (
        "name the model these weights are of, or give its arguments (num_classes, img_size, …) with --teacher-kwargs "
        "(--student-kwargs)"
    ),
    Remedy.GIVE_STUDENT_WEIGHTS: "give them with `--student-weights hub`, a file, or random for a dry run",
    # Training.
    Remedy.ADD_COLUMN: (
        "add it with `kdcache extract --add --tap {tap}` (a teacher without classifier has no head/logits), or leave "
        "the term out with `--term NAME:weight=0`, for example logits:weight=0"
    ),
    Remedy.ADD_COLUMNS: "add them with `kdcache extract --add` and a `--tap` for each, or leave the term out",
    Remedy.CHOOSE_COLUMN: (
        "choose with `--term NAME:teacher=GROUP:TAP:CODEC`, or with `--codec` where only that differs"
    ),
    Remedy.SET_WIDTH: "choose with `--set method.change.width=...`",
    Remedy.ADD_TEACHER: "add its outputs with `kdcache extract --add`, or change it with `--set teacher=...`",
    Remedy.TRAIN_WITHOUT_LABELS: (
        "train on the teacher alone with `--method logit:logit_weight=1`, or on its features with `--method feature "
        "--term cross-entropy:weight=0 --term logits:weight=0`"
    ),
    Remedy.LEAVE_OUT_CLASSES_OR_LOGITS: "leave out num_classes, or the term logits",
    Remedy.LEAVE_OUT_LABELS_OR_LOGITS: (
        "train on labels and features with `--term logits:weight=0`, or on the teacher alone with "
        "`--term cross-entropy:weight=0`"
    ),
    Remedy.SEPARATE_CLASSES: (
        "train on labels and features with `--term logits:weight=0`, or on the teacher alone with `--term "
        "cross-entropy:weight=0`; for some of the teacher's classes extract with their names in the teacher's order "
        "(--class-map FILE), or if the labels count them already, say so with `--set same_classes=true`"
    ),
    Remedy.NAME_STUDENT_CLASSES: (
        "evaluate with the names of the student's classes in their order (`kdcache eval --class-map FILE`), and train "
        "without --eval-data, or if the labels count the teacher's classes, with `--set same_classes=true`"
    ),
    Remedy.MATCH_GRID: (
        "choose a student with the teacher's patch size or a block with that grid (`--term NAME:student_block=N`), "
        "resize one of them with `--term NAME:resize=student` or `resize=teacher`, or leave the term out"
    ),
    Remedy.OTHER_TOKENS: "choose patch tokens or head/embedding of it, another teacher, or leave the term out",
    Remedy.STABILISE: (
        "lower the learning rate (`--set optimizer.lr_per_512=...`), clip gradients (`--set "
        "optimizer.clip_grad=1`) or train in fp32 (`--set precision=fp32`)"
    ),
    Remedy.SAME_RUN: (
        "use the same settings to resume (a finished run also takes more --epochs), or choose another --out folder"
    ),
    Remedy.ACCEPT_VERSIONS: (
        "install the versions that it was begun with, or accept these with --accept-versions, which records both"
    ),
    Remedy.FINISH_TRAINING: "finish it with `kdcache train`, or choose another folder",
    Remedy.EVALUATE_WHILE_TRAINING: "train with `--eval-data`, or choose `--weights last`",
    Remedy.OTHER_WEIGHTS: "restore the file, or choose others of the run with --weights",
    Remedy.KEEP_MILESTONES: "train with `--set checkpoint.milestone_every=N`, or choose other --weights",
    Remedy.REPLACE_EXPORT: "replace it with --replace, or choose another --out",
    Remedy.OTHER_DATA_OR_CLASSES: (
        "evaluate on the data set it was trained for, or train with `--set num_classes=...`"
    ),
    Remedy.GIVE_TEACHER_ACCURACY: (
        "give the teacher's top-1 with --teacher-accuracy, or --student-weights with a classifier of these classes"
    ),
    Remedy.GIVE_EVAL_DATA: "give labelled images with --eval-data",
    # An analysis.
    Remedy.ANALYZE: "write one with `kdcache analyze ... --out {path}`",
    Remedy.NAME_ONE_COLUMN: "name one for each tap with --column",
    Remedy.NAME_ONE_GROUP: "choose one with --group",
    Remedy.READ_RECORDS: "read records: leave out `--images 0`",
}


def remedy_text(remedy: Remedy, details: Mapping[str, Any]) -> str:
    """Word a remedy as a sentence without its full stop.

    Args:
        remedy: What to do.
        details: Of the error or fault; see `Remedy` for what it must hold.
    """
    return _WORDS[remedy].format(**{name: one_line(value) for name, value in details.items()})


def error_text(error: KdcacheError) -> str:
    """Word an error: message; remedy. After a message of several lines the remedy has its own."""
    message = str(error)
    if error.remedy is None:
        return message
    remedy = remedy_text(error.remedy, error.details)
    if "\n" in message:
        return f"{message}\n{remedy[0].upper()}{remedy[1:]}"
    return f"{message}; {remedy}"


def fault_line(fault: "Fault") -> str:
    """One line: where, what is wrong, what to do."""
    return f"{one_line(fault.where)}: {one_line(fault.problem)}; {remedy_text(fault.remedy, {'group': fault.group})}"
