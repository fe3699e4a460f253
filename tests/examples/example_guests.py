"""Runs examples the way any WASI host would: the wasmtime command line, no Limpet involved."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
CANT_FETCH = 75  # fetch.sh's exit status without a network (EX_TEMPFAIL)


@dataclass(frozen=True, slots=True)
class Answer:
    """A CGI response (RFC 3875, section 6), taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def parse_answer(output: bytes) -> Answer:
    head, *rest = re.split(rb"\r?\n\r?\n", output, maxsplit=1)
    assert rest, f"no empty line after the headers: {output[:200]!r}"
    headers = {}
    for line in head.decode("ascii").splitlines():
        name, colon, value = line.partition(":")
        assert colon, f"not a header: {line!r}"
        headers[name.title()] = value.strip()
    return Answer(
        status=int(headers.pop("Status", "200").split()[0]), headers=headers, body=rest[0]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A module with its fixed arguments, environment and volumes."""

    wasmtime: str
    module: Path
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, Path] = field(default_factory=dict)

    def command(self, env: dict[str, str]) -> list[str]:
        command = [self.wasmtime, "run", "--allow-precompiled", "--argv0", self.module.stem]
        command += [f"--env={name}={value}" for name, value in (self.env | env).items()]
        command += [f"--dir={host}::{guest}" for guest, host in self.volumes.items()]
        return [*command, str(self.module), *self.args]

    def run(
        self, *, env: dict[str, str] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(env or {}), input=stdin, capture_output=True, timeout=60, check=False
        )

    def request(
        self, method: str, target: str, *, body: bytes = b"", env: dict[str, str] | None = None
    ) -> Answer:
        path, _, query = target.partition("?")
        variables = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "HTTP_HOST": "localhost:8080",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REMOTE_ADDR": "127.0.0.1",
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "8080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "limpet",
        }
        if body:
            variables["CONTENT_LENGTH"] = str(len(body))
        ended = self.run(env=variables | (env or {}), stdin=body)
        assert ended.returncode == 0, ended.stderr.decode()
        return parse_answer(ended.stdout)


def build(example: str, output: Path, *, examples: Path = EXAMPLES) -> Path:
    """Run an example's build script into the folder `output`; skip when it can't be fetched."""
    if example == "go-hello" and shutil.which("go") is None:
        pytest.skip("needs the go command")
    output.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        [examples / example / "build.sh", output],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if ended.returncode == CANT_FETCH:
        pytest.skip(ended.stderr.strip())
    assert ended.returncode == 0, ended.stderr
    return output / f"{example}.wasm"


def read_manifest(example: str) -> dict[str, dict]:
    """The documents of an example's app.yaml by kind."""
    with (EXAMPLES / example / "app.yaml").open() as file:
        return {document["kind"]: document for document in yaml.safe_load_all(file)}
