"""The fake node as a process: what `limpet run` starts in tests instead of a real one.

`python fake_node_process.py --data DIR --socket PATH`; it notes in DIR that it was asked to stop.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_node import FakeNode, make_record


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--socket", type=Path)
    options = parser.parse_args()
    signals = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    fake = FakeNode(options.socket)
    fake.keeps_log_open = lambda app: app is not None and app["kind"] == "Deployment"
    fake.logs["default", "hello"] = [
        make_record("to stdout"),
        make_record("to stderr", stream="stderr"),
    ]
    fake.start()
    signal.sigwait(signals)
    options.data.mkdir(exist_ok=True)
    left = sorted(name for _, name in fake.apps)
    (options.data / "stopped").write_text(f"apps left: {left}\n")
    fake.stop()


if __name__ == "__main__":
    main()
