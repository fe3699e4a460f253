import os

from limpet.linux import memory


def test_some_memory_is_available():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.read_available_bytes() <= total


def test_stalls_are_a_share_or_not_measured():
    stalled = memory.read_stalled_percent()
    assert stalled is None or 0.0 <= stalled <= 100.0


def test_stalls_are_read_as_the_kernel_writes_them(tmp_path, monkeypatch):
    file = tmp_path / "memory"
    monkeypatch.setattr(memory, "_PRESSURE", str(file))
    assert memory.read_stalled_percent() is None
    file.write_text(
        "some avg10=12.34 avg60=1.00 avg300=0.10 total=1\nfull avg10=9.00 avg60=0 total=2\n"
    )
    assert memory.read_stalled_percent() == 12.34
    file.write_text("nothing of the kind\n")
    assert memory.read_stalled_percent() is None


def test_a_process_may_offer_itself():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open("/proc/self/oom_score_adj", encoding="ascii") as file:
                before = int(file.read())
            raised = max(before, 700)
            is_set = memory.set_oom_score(raised)
            with open("/proc/self/oom_score_adj", encoding="ascii") as file:
                code = int(not (is_set and int(file.read()) == raised))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_the_kernel_does_not_allow_is_no_failure(monkeypatch):
    monkeypatch.setattr(memory, "_OOM_SCORE", "/proc/self/no_such_file")
    assert not memory.set_oom_score(500)
