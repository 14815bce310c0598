"""Activities of a rank, as the watchdog names them, and the sections of a run they belong to."""

from enum import StrEnum

from mmbert.training.fault_tolerance.hangs.section_limits import Section


class Activity(StrEnum):
    """Activity of a rank, as shown in messages."""

    START = "startup"
    COPY_SHARDS = "copying shards to the nodes' own disks"
    CHECK_LINKS = "timing the links between ranks"
    BUILD_MODEL = "building the model"
    READ_VALIDATION_ROWS = "reading validation rows"
    COUNT_UNIGRAMS = "counting tokens for the unigram model"
    CHECK_MEMORY = "memory check"
    VERIFY_CHECKPOINT = "verifying a checkpoint"
    LOAD_CHECKPOINT = "loading a checkpoint"
    SYNC_REQUESTS = "exchanging requests"
    READ_ROWS = "reading rows"
    TRAIN_STEP = "forward, backward and optimizer step"
    REPEAT_STEP = "running a step again"
    COMPARE_RANKS = "comparing weights between ranks"
    VALIDATE = "validation"
    SAVE_CHECKPOINT = "saving a checkpoint"
    FINISH_SAVING = "waiting for the checkpoint"


# Waiting for the disk at the end has no limit but the recipe's.
_SECTIONS: dict[Activity, Section | None] = {
    Activity.SYNC_REQUESTS: Section.STEP,
    Activity.READ_ROWS: Section.STEP,
    Activity.TRAIN_STEP: Section.STEP,
    Activity.REPEAT_STEP: Section.STEP,
    Activity.COMPARE_RANKS: Section.SAVE,
    Activity.VALIDATE: Section.VALIDATION,
    Activity.SAVE_CHECKPOINT: Section.SAVE,
    Activity.FINISH_SAVING: None,
}


def section_of(activity: Activity) -> Section | None:
    """Return the section of an activity: the start, unless it is of another; None if of none."""
    return _SECTIONS.get(activity, Section.START)
