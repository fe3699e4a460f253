"""Each example does what its README says under a host that isn't Limpet."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from example_guests import EXAMPLES, Guest

if TYPE_CHECKING:
    from pathlib import Path


def test_hello_greets(wasmtime: str) -> None:
    hello = Guest(wasmtime=wasmtime, module=EXAMPLES / "hello" / "hello.wasm")
    answer = hello.request("PUT", "/a/b?x=1&name=J%C3%BCrg+%26%0a%zz")
    assert answer.status == 200
    assert answer.headers == {"Content-Type": "text/plain; charset=utf-8"}
    assert answer.body.decode() == "Hello, Jürg &?%zz!\nYou sent PUT /a/b\n"


@pytest.mark.parametrize("query", ["", "name=", "nickname=x", "&&", "name"])
def test_hello_without_name(wasmtime: str, query: str) -> None:
    hello = Guest(wasmtime=wasmtime, module=EXAMPLES / "hello" / "hello.wasm")
    assert b"Hello, world!" in hello.request("GET", f"/?{query}").body


def test_hello_bounds_what_it_repeats(wasmtime: str) -> None:
    hello = Guest(wasmtime=wasmtime, module=EXAMPLES / "hello" / "hello.wasm")
    answer = hello.request("M" * 500, f"/{'p' * 5000}?name={'n' * 5000}")
    assert len(answer.body) < 512
    assert answer.body.endswith(b"\n")


def test_hello_refuses_an_environment_beyond_its_bounds(wasmtime: str) -> None:
    hello = Guest(wasmtime=wasmtime, module=EXAMPLES / "hello" / "hello.wasm")
    for env in ({f"HTTP_X_{i}": "" for i in range(520)}, {"HTTP_X": "x" * 65_536}):
        assert hello.request("GET", "/", env=env).status == 431


def test_go_hello_greets(wasmtime: str, fetched_or_built) -> None:
    hello = Guest(wasmtime=wasmtime, module=fetched_or_built("go-hello"))
    answer = hello.request("GET", "/a?name=G%C3%B6")
    assert (answer.status, answer.body.decode()) == (200, "Hello, Gö!\nYou sent GET /a\n")
    form = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
    answer = hello.request("POST", "/", body=b"name=form", env=form)
    assert answer.body == b"Hello, form!\nYou sent POST /\n"


@pytest.mark.parametrize("example", ["python", "quickjs"])
def test_script_greets_and_sums(script_guest, example: str) -> None:
    guest = script_guest(example)
    answer = guest.request("GET", "/a?name=J%C3%BCrg+B")
    assert answer.status == 200
    assert answer.headers == {"Content-Type": "application/json"}
    assert answer.json()["greeting"] == "Hello, Jürg B!"
    assert answer.json()["path"] == "/a"
    assert guest.request("POST", "/", body=b"[1, 2.5]").json() == {"sum": 3.5}
    for body in (b"", b"[1,", b'["a"]', b"7"):
        answer = guest.request("POST", "/", body=body)
        assert answer.status == 400
        assert "list of numbers" in answer.json()["error"]


@pytest.fixture
def sensor(wasmtime: str, tmp_path: Path) -> Guest:
    return Guest(
        wasmtime=wasmtime,
        module=EXAMPLES / "sensor" / "sensor.wasm",
        env={"ALARM_LOW": "-10", "ALARM_HIGH": "40", "KEEP_BYTES": "1048576"},
        volumes={"/data": tmp_path},
    )


def post(sensor: Guest, *readings: tuple[str, float]) -> None:
    items = [{"sensor": name, "value": value} for name, value in readings]
    answer = sensor.request("POST", "/readings", body=json.dumps(items).encode())
    assert (answer.status, answer.json()) == (201, {"stored": len(items)})


def test_sensor_stores_and_summarises(sensor: Guest) -> None:
    values = [21.5, -3.25, 1e-300, 0.1, 39.99]
    post(sensor, *[("t1", value) for value in values])
    answer = sensor.request("POST", "/readings", body=b' {"value": 7e1, "s\\u0065nsor":"t2"}\n')
    assert answer.status == 201

    stats = sensor.request("GET", "/stats?sensor=t1").json()
    assert (stats["count"], stats["min"], stats["max"]) == (5, -3.25, 39.99)
    assert math.isclose(stats["mean"], statistics.mean(values))
    assert math.isclose(stats["stddev"], statistics.stdev(values))
    assert (stats["last"]["sensor"], stats["last"]["value"]) == ("t1", 39.99)
    assert stats["alarm"] is False

    stats = sensor.request("GET", "/stats").json()
    assert (stats["count"], stats["last"]["value"], stats["alarm"]) == (6, 70, True)
    readings = sensor.request("GET", "/readings").json()
    assert [item["value"] for item in readings] == [*values, 70]
    assert [item["value"] for item in sensor.request("GET", "/readings?limit=2").json()] == [
        39.99,
        70,
    ]
    assert len(sensor.request("GET", "/readings?sensor=t1&limit=1000").json()) == 5


def test_sensor_without_readings(sensor: Guest) -> None:
    stats = sensor.request("GET", "/stats").json()
    assert stats["count"] == 0
    assert stats["min"] is stats["last"] is None
    assert stats["alarm"] is False
    assert sensor.request("GET", "/readings").json() == []
    assert sensor.request("DELETE", "/readings").status == 204


def test_sensor_deletes(sensor: Guest) -> None:
    post(sensor, ("t1", 1))
    answer = sensor.request("DELETE", "/readings")
    assert (answer.status, answer.body) == (204, b"")
    assert sensor.request("GET", "/readings").json() == []
    post(sensor, ("t1", 2))
    assert [item["value"] for item in sensor.request("GET", "/readings").json()] == [2]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        "null",
        "[[]]",
        '{"sensor":"t1"}',
        '{"value":1}',
        '{"sensor":"t1","value":1}x',
        '{"sensor":"t1","value":1},',
        '{"sensor":"t1","value":1,}',
        '[{"sensor":"t1","value":1},]',
        '[{"sensor":"t1","value":1}',
        '{"sensor":"t1","value":"1"}',
        '{"sensor":"t1","value":NaN}',
        '{"sensor":"t1","value":1e999}',
        '{"sensor":"t1","value":01}',
        '{"sensor":"t1","value":+1}',
        '{"sensor":"t1","value":.5}',
        '{"sensor":"t1","value":1.}',
        '{"sensor":"t1","value":0x10}',
        '{"sensor":"t1","value":1e}',
        '{"sensor":"t1","value":1,"value":2}',
        '{"sensor":"t1","value":1,"unit":"C"}',
        '{"sensor":"","value":1}',
        '{"sensor":"a b","value":1}',
        '{"sensor":"' + "s" * 33 + '","value":1}',
        '{"sensor":"' + "s" * 9999 + '","value":1}',
        '{"sensor":"t\\u00","value":1}',
        '{"sensor":"t\\u0000","value":1}',
        '{"sensor":"t\\x41","value":1}',
        '{"sensor":"t1\n","value":1}',
        '{"sensor":"t1\x00","value":1}',
        '{"sensor":"t1","value":1}\x00',
        '{"sensor":"tü","value":1}',
        '{"sensor":"t1',
        '{"sensor":"t1\\',
        "{'sensor':'t1','value':1}",
        "\x00",
        json.dumps([{"sensor": "t1", "value": 1}] * 1001),
    ],
)
def test_sensor_refuses_what_is_not_a_reading(sensor: Guest, body: str) -> None:
    answer = sensor.request("POST", "/readings", body=body.encode())
    assert answer.status == 400
    assert "(byte " in answer.json()["error"]
    assert sensor.request("GET", "/stats").json()["count"] == 0


def test_sensor_refuses_large_and_torn_bodies(sensor: Guest) -> None:
    too_large = b"[" + b" " * 65_536
    assert sensor.request("POST", "/readings", body=too_large).status == 413
    unannounced = sensor.request("POST", "/readings", body=too_large, env={"CONTENT_LENGTH": ""})
    assert unannounced.status == 413
    whole = b'{"sensor":"t1","value":1}'
    torn = sensor.request("POST", "/readings", body=whole, env={"CONTENT_LENGTH": "50"})
    assert torn.status == 400
    padded = whole + b" " * (65_536 - len(whole))
    assert sensor.request("POST", "/readings", body=padded).status == 201


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/stats", 405),
        ("PATCH", "/readings", 405),
        ("GET", "/readings?limit=0", 400),
        ("GET", "/readings?limit=1001", 400),
        ("GET", "/readings?limit=-1", 400),
        ("GET", "/readings?limit=1x", 400),
        ("GET", "/readings?limit=99999999999999999999", 400),
        ("GET", "/stats?sensor=", 400),
        ("GET", "/stats?sensor=%20", 400),
        ("GET", "/stats?sensor=" + "s" * 33, 400),
        ("HEAD", "/stats", 200),
        ("GET", "/", 200),
    ],
)
def test_sensor_statuses(sensor: Guest, method: str, target: str, status: int) -> None:
    answer = sensor.request(method, target)
    assert answer.status == status
    assert ("error" in answer.json()) == (status >= 400)
    assert ("Allow" in answer.headers) == (status == 405)


def test_sensor_skips_torn_records(sensor: Guest, tmp_path: Path) -> None:
    """A power cut leaves half a record; the next one must not be lost with it."""
    post(sensor, ("t1", 1), ("t1", 2))
    (log,) = tmp_path.glob("readings-*.log")
    log.write_bytes(log.read_bytes()[:-5])
    post(sensor, ("t1", 3))
    stats = sensor.request("GET", "/stats").json()
    assert (stats["count"], stats["damaged"], stats["last"]["value"]) == (2, 1, 3)

    log.write_bytes(log.read_bytes().replace(b" t1 3", b" t1 4") + b"\0" * 5000)
    post(sensor, ("t1", 5))
    stats = sensor.request("GET", "/stats").json()
    assert (stats["count"], stats["damaged"], stats["max"]) == (2, 3, 5)


def test_sensor_volume_stays_bounded(sensor: Guest, tmp_path: Path) -> None:
    batch = [("a-sensor-with-a-name-of-32-letters"[:32], float(i)) for i in range(1000)]
    sizes = []
    for _ in range(24):
        post(sensor, *batch)
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert max(sizes) <= 1_048_576
    assert sizes[-1] > 1_048_576 * 3 / 4
    stats = sensor.request("GET", "/stats").json()
    assert stats["last"]["value"] == 999
    assert stats["damaged"] == 0


def test_sensor_in_two_processes_loses_nothing(sensor: Guest) -> None:
    """Many at once, over several segments, from processes that share nothing but the volume."""

    def store(writer: int) -> None:
        for batch in range(5):
            post(sensor, *[(f"w{writer}", batch * 100.0 + i) for i in range(100)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store, range(4)))
    stats = sensor.request("GET", "/stats").json()
    assert (stats["count"], stats["damaged"]) == (2000, 0)
    for writer in range(4):
        readings = sensor.request("GET", f"/readings?sensor=w{writer}&limit=1000").json()
        assert [item["value"] for item in readings] == [float(i) for i in range(500)]


@pytest.mark.parametrize("env", [{"KEEP_BYTES": "0"}, {"KEEP_BYTES": "1e6"}, {"ALARM_LOW": "cold"}])
def test_sensor_refuses_wrong_settings(sensor: Guest, env: dict[str, str]) -> None:
    method, target = ("GET", "/stats") if "ALARM_LOW" in env else ("POST", "/readings")
    answer = sensor.request(method, target, body=b'{"sensor":"t1","value":1}', env=env)
    assert answer.status == 500
    assert next(iter(env)) in answer.json()["error"]


def test_sensor_without_volume(wasmtime: str) -> None:
    guest = Guest(wasmtime=wasmtime, module=EXAMPLES / "sensor" / "sensor.wasm")
    answer = guest.request("GET", "/stats")
    assert answer.status == 500
    assert "/data" in answer.json()["error"]


@pytest.fixture
def report(wasmtime: str, tmp_path: Path) -> Guest:
    return Guest(
        wasmtime=wasmtime,
        module=EXAMPLES / "report" / "report.wasm",
        volumes={"/data": tmp_path},
    )


def test_report_prints_a_line_per_sensor(sensor: Guest, report: Guest) -> None:
    post(sensor, ("t1", 1), ("t2", 5), ("t1", 2), ("t1", 6))
    ended = report.run()
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.decode().splitlines()]
    assert lines == [
        ["sensor", "count", "min", "max", "mean", "stddev", "last"],
        ["t1", "3", "1", "6", "3", "2.64575", "6"],
        ["t2", "1", "5", "5", "5", "0", "5"],
        ["4", "readings", "of", "2", "sensors"],
    ]


def test_report_without_readings_fails(report: Guest) -> None:
    ended = report.run()
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"no readings yet" in ended.stderr


def test_report_without_volume_fails(wasmtime: str) -> None:
    ended = Guest(wasmtime=wasmtime, module=EXAMPLES / "report" / "report.wasm").run()
    assert ended.returncode == 1
    assert b"/data" in ended.stderr


def test_ticker_ticks_until_stopped(wasmtime: str) -> None:
    ticker = Guest(wasmtime=wasmtime, module=EXAMPLES / "ticker" / "ticker.wasm")
    command = ticker.command({"TICK_SECONDS": "1"})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert process.poll() is None
        process.terminate()
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"tick {number} at \d{{4}}(-\d\d){{2}}T\d\d(:\d\d){{2}}Z\n", line)


@pytest.mark.parametrize("period", ["0", "-1", "", "soon", "86401", "5s"])
def test_ticker_refuses_wrong_period(wasmtime: str, period: str) -> None:
    ticker = Guest(wasmtime=wasmtime, module=EXAMPLES / "ticker" / "ticker.wasm")
    ended = ticker.run(env={"TICK_SECONDS": period})
    assert ended.returncode == 1
    assert b"TICK_SECONDS" in ended.stderr


def test_build_scripts_are_executable() -> None:
    scripts = list(EXAMPLES.glob("**/*.sh"))
    assert len(scripts) >= len(list(EXAMPLES.glob("*/app.yaml")))
    assert all(os.access(script, os.X_OK) for script in scripts)
