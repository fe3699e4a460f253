"""Blocks of a disk that a file gets before it is that large."""

from __future__ import annotations

import errno

from limpet.linux.calls import syscall

_KEEP_SIZE = 1  # linux/falloc.h, FALLOC_FL_KEEP_SIZE
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT)


def allocate_beyond_end(descriptor: int, size_bytes: int) -> bool:
    """Give an open file the blocks of its first `size_bytes`, whatever its size is (fallocate(2)).

    Writing there finds room on a full disk, too. Returns False where the file system can't, or is full;
    raises OSError for the rest.
    """
    try:
        syscall("fallocate", descriptor, _KEEP_SIZE, 0, size_bytes)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True
