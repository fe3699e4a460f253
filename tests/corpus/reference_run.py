"""Runs a guest under wasmtime-py: the reference for read-only directories, which the CLI lacks.

Used as a program: reference_run.py MODULE [--dir HOST GUEST rw|ro]... [--env NAME=VALUE]... -- ARGS
"""

from __future__ import annotations

import sys

import wasmtime

TRAPPED = 134


def main(arguments: list[str]) -> int:
    wasi = wasmtime.WasiConfig()
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    module = arguments.pop(0)
    env = []
    while (flag := arguments.pop(0)) != "--":
        if flag == "--env":
            env.append(tuple(arguments.pop(0).split("=", 1)))
        else:
            host, guest, mode = arguments[:3]
            del arguments[:3]
            wasi.preopen_dir(host, guest, fs_mutable=mode == "rw")
    wasi.env = env
    wasi.argv = ["guest", *arguments]
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    try:
        instance = linker.instantiate(
            store,
            wasmtime.Module.deserialize_file(engine, module)
            if module.endswith(".cwasm")
            else wasmtime.Module.from_file(engine, module),
        )
        start = instance.exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
    except wasmtime.ExitTrap as end:
        return end.code
    except (wasmtime.Trap, wasmtime.WasmtimeError) as trap:
        print(f"Error: failed to run: {trap}", file=sys.stderr)
        return TRAPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
