"""Guests for attacks that need no native code, small enough to be written as WebAssembly text."""

from __future__ import annotations

from functools import cache

_WASI = "wasi_snapshot_preview1"


@cache
def _build(text: str) -> bytes:
    from wasmtime import wat2wasm

    return bytes(wat2wasm(text))


def spin() -> bytes:
    """Computes for ever."""
    return _build('(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))')


def grow() -> bytes:
    """Grows its memory and touches every page until it is refused, then traps."""
    return _build(
        """(module (memory (export "memory") 1)
             (func (export "_start") (local $page i32)
               (loop $more
                 (local.set $page (memory.grow (i32.const 16)))
                 (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
                 (memory.fill (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1)
                              (i32.const 1048576))
                 (br $more))))"""
    )


def opener() -> bytes:
    """Opens the path in the request's body, in both preopens, and answers with what it got.

    The answer's body is `ERRNO-OF-3 ERRNO-OF-4` in two bytes, and then what could be read of the file.
    """
    return _build(
        f"""(module
          (import "{_WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "{_WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "{_WASI}" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (memory (export "memory") 2)
          (data (i32.const 0) "Content-Type: application/octet-stream\\n\\n")
          (func $try (param $preopen i32) (param $length i32)
            (i32.store8 (i32.const 300)
              (call $open (local.get $preopen) (i32.const 1) (i32.const 4096) (local.get $length)
                (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 304)))
            (i32.store (i32.const 256) (i32.const 300)) (i32.store (i32.const 260) (i32.const 1))
            (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 308)))
            (if (i32.eqz (i32.load8_u (i32.const 300))) (then
              (i32.store (i32.const 256) (i32.const 65536)) (i32.store (i32.const 260) (i32.const 4096))
              (if (i32.eqz (call $read (i32.load (i32.const 304)) (i32.const 256) (i32.const 1)
                                       (i32.const 308)))
                (then
                  (i32.store (i32.const 260) (i32.load (i32.const 308)))
                  (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 308))))))))
          (func (export "_start") (local $length i32)
            (i32.store (i32.const 256) (i32.const 0)) (i32.store (i32.const 260) (i32.const 40))
            (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 308)))
            (i32.store (i32.const 256) (i32.const 4096)) (i32.store (i32.const 260) (i32.const 4096))
            (drop (call $read (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 308)))
            (local.set $length (i32.load (i32.const 308)))
            (call $try (i32.const 3) (local.get $length))
            (call $try (i32.const 4) (local.get $length))))"""
    )


def racer() -> bytes:
    """Moves a directory about and swaps a link for it, and opens a path through both, many times.

    Preopen 3 has `d` (a directory) and `l` (a link that leads up). Each round exchanges
    their names step by step and tries paths that lead up by way of either. Two workers of this run at
    once. Answers with two digits: whether any of those was opened, and whether any move succeeded.
    """
    rounds = 400
    moves = [("d", "t"), ("l", "d"), ("d", "l"), ("t", "d")]
    tries = ["d/../../../../secret", "d/secret", "d/etc/passwd", "l/secret", "t/../../secret"]
    texts = {text: 1024 + 64 * number for number, text in enumerate(["d", "t", "l", *tries])}
    data = "".join(f'(data (i32.const {at}) "{text}")' for text, at in texts.items())

    def attempt(text: str) -> str:
        return f"""
            (if (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const {texts[text]})
                   (i32.const {len(text)}) (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0)
                   (i32.const 304)))
              (then (i32.store8 (i32.const 40) (i32.const 49))))"""

    def move(old: str, new: str) -> str:
        return f"""
            (if (i32.eqz (call $rename (i32.const 3) (i32.const {texts[old]}) (i32.const 1)
                                       (i32.const 3) (i32.const {texts[new]}) (i32.const 1)))
              (then (i32.store8 (i32.const 41) (i32.const 49))))"""

    steps = "".join(move(*each) + "".join(map(attempt, tries)) for each in moves)
    return _build(
        f"""(module
          (import "{_WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "{_WASI}" "path_rename"
            (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
          (import "{_WASI}" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "Content-Type: application/octet-stream\\n\\n00")
          {data}
          (func (export "_start") (local $round i32)
            (loop $more
              {steps}
              (local.set $round (i32.add (local.get $round) (i32.const 1)))
              (br_if $more (i32.lt_u (local.get $round) (i32.const {rounds}))))
            (i32.store (i32.const 256) (i32.const 0)) (i32.store (i32.const 260) (i32.const 42))
            (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 308)))))"""
    )
