"""One owner for each folder that a run writes.

- `identity`: process that owns a folder, and whether it is gone.
- `owner_file`: reading an owner file, and putting one in its place.
- `folder_owner`: its lease: taking, checking, renewing and releasing a folder.
"""

from mmbert.ownership.folder_owner import (
    FolderOwner,
    Lease,
    OwnershipLostError,
    OwnerWitness,
    Unowned,
    take_folder,
)
from mmbert.ownership.identity import Identity, this_process
from mmbert.ownership.owner_file import OWNER_NAME, is_owner_file

__all__ = [
    "OWNER_NAME",
    "FolderOwner",
    "Identity",
    "Lease",
    "OwnerWitness",
    "OwnershipLostError",
    "Unowned",
    "is_owner_file",
    "take_folder",
    "this_process",
]
