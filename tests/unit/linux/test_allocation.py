import os

import pytest

from limpet.linux.allocation import allocate_beyond_end


def test_a_file_gets_blocks_and_keeps_its_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some")
    descriptor = os.open(path, os.O_RDWR)
    try:
        if not allocate_beyond_end(descriptor, 1 << 20):
            pytest.skip("needs a file system with fallocate, and 1 MiB free")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == b"some"
    assert path.stat().st_blocks * 512 >= 1 << 20


def test_what_is_no_open_file_is_said():
    with pytest.raises(OSError, match="fallocate"):
        allocate_beyond_end(-1, 4096)
