"""Write whole or not at all. Used by everyone, knows nobody."""

from stepladder.files.atomic import append_line, finish_exchange, fsync_folder, new_folder, read_lines, write_bytes, write_text
from stepladder.files.disk import Disk, FailingDisk, disk, writing_to
from stepladder.files.hashing import hash_bytes, hash_file, hash_json, hash_text
from stepladder.files.lock import Locked, lock

__all__ = [
    "Disk",
    "FailingDisk",
    "Locked",
    "append_line",
    "disk",
    "finish_exchange",
    "fsync_folder",
    "hash_bytes",
    "hash_file",
    "hash_json",
    "hash_text",
    "lock",
    "new_folder",
    "read_lines",
    "write_bytes",
    "write_text",
    "writing_to",
]
