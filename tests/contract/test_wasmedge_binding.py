"""The functions of the library that is there, each called once on its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
from contract_runs import this_python
from guest_builds import parse_wat

from limpet.engine.protocol import CompileOptions
from limpet.engine.raw_memory import view_memory
from limpet.engine.wasmedge.binding import HOST_FUNCTION, VALUE_BYTES, Binding, Bytes, Text
from limpet.engine.wasmedge.library import TESTED_VERSIONS, find_library
from limpet.engine.wasmedge.settings import _PROPOSALS, configuration

ADD = parse_wat(
    """(module (import "host" "less" (func $less (param i32 i64) (result i32)))
    (memory (export "memory") 2) (data (i32.const 10) "content")
    (func (export "add") (param i32 i64) (result i32)
      (i32.add (call $less (local.get 0) (local.get 1)) (i32.const 1000))))"""
)
TRAP = 0x040A


@pytest.fixture(scope="module")
def binding() -> Binding:
    return Binding(find_library())


def test_the_version_is_one_that_was_tested(binding: Binding) -> None:
    assert binding.version.startswith(binding.series + ".")
    assert binding.series in TESTED_VERSIONS


def test_results_have_words(binding: Binding) -> None:
    assert binding.message(0) == "success"
    assert binding.message(1) == "terminated"
    assert binding.message(3) == "cost limit exceeded"
    assert binding.message(7) == "execution interrupted"
    assert binding.message(TRAP) == "unreachable"


@pytest.mark.parametrize(
    ("body", "proposal"),
    [
        ('(global (export "g") (mut i32) (i32.const 0))', "import-export-mut-globals"),
        ("(func (drop (i32.trunc_sat_f32_s (f32.const 1))))", "non-trap-float-to-int"),
        ("(func (drop (i32.extend8_s (i32.const 1))))", "sign-extension"),
        ("(func (result i32 i32) (i32.const 1) (i32.const 2))", "multi-value"),
        (
            "(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0)))",
            "bulk-memory",
        ),
        ("(table 1 externref)", "reference-types"),
        ("(func (drop (v128.const i64x2 0 0)))", "simd"),
        ("(func $f (return_call $f))", "tail-call"),
        ("(global i32 (i32.add (i32.const 1) (i32.const 2)))", "extended-const"),
        ("(func (param (ref func)))", ""),
        ("(func (drop (ref.i31 (i32.const 1))))", ""),
        ("(memory 1) (memory 1)", ""),
        ("(memory 1) (func (drop (i32.atomic.load (i32.const 0))))", ""),
        ("(memory i64 1)", ""),
        ("(tag)", ""),
        (
            "(func (drop (i32x4.relaxed_trunc_f32x4_s (v128.const i64x2 0 0))))",
            "relaxed-simd",
        ),
    ],
)
def test_the_proposals_numbers(binding: Binding, body: str, proposal: str) -> None:
    """What is on loads, and no longer when its number is taken away; what is off does not."""
    module = parse_wat(f"(module {body})")
    with configuration(binding, CompileOptions()) as settings:
        assert _loads(binding, settings, module) is (proposal in _PROPOSALS)
        # Others build on these two in the library.
        if proposal not in ("", "multi-value", "import-export-mut-globals", "bulk-memory"):
            binding.configure_remove_proposal(settings, binding.proposals.index(proposal))
            assert not _loads(binding, settings, module)


def _loads(binding: Binding, settings: int, module: bytes) -> bool:
    loader, validator = binding.loader_create(settings), binding.validator_create(settings)
    parsed = ctypes.c_void_p()
    result = binding.loader_parse_from_bytes(loader, ctypes.byref(parsed), Bytes(module))
    if not result:
        result = binding.validator_validate(validator, parsed)
        binding.ast_module_delete(parsed)
    binding.validator_delete(validator)
    binding.loader_delete(loader)
    return result == 0


def test_a_call_there_and_back(binding: Binding) -> None:
    """Types, values, host functions, memory: through every structure that crosses the boundary."""
    seen: list[tuple[int, int, int]] = []

    @HOST_FUNCTION
    def less(_data: int, frame: int, arguments: int, results: int) -> int:
        first = ctypes.c_uint64.from_address(arguments).value
        second = ctypes.c_uint64.from_address(arguments + VALUE_BYTES).value
        memory = binding.calling_frame_get_memory_instance(frame, 0)
        seen.append((first, second, binding.memory_instance_get_page_size(memory)))
        ctypes.c_uint64.from_address(results).value = first - second
        return 0

    with configuration(binding, CompileOptions(is_interpreted=True), memory_bytes=1 << 20) as each:
        loader, validator = binding.loader_create(each), binding.validator_create(each)
        statistics = binding.statistics_create()
        executor = binding.executor_create(each, statistics)
    parsed, instance = ctypes.c_void_p(), ctypes.c_void_p()
    assert binding.loader_parse_from_bytes(loader, ctypes.byref(parsed), Bytes(ADD)) == 0
    assert binding.validator_validate(validator, parsed) == 0
    types = (ctypes.c_uint64 * 2)(binding.value_type_i32, binding.value_type_i64)
    function_type = binding.function_type_create(types, 2, types, 1)
    host = binding.module_instance_create(Text(b"host"))
    function = binding.function_instance_create(function_type, less, None, 0)
    binding.function_type_delete(function_type)
    binding.module_instance_add_function(host, Text(b"less"), function)
    store = binding.store_create()
    assert binding.executor_register_import(executor, store, host) == 0
    assert binding.executor_instantiate(executor, ctypes.byref(instance), store, parsed) == 0
    memory = binding.module_instance_find_memory(instance, Text(b"memory"))
    assert binding.module_instance_find_memory(instance, Text(b"none")) is None
    assert binding.memory_instance_get_page_size(memory) == 2
    with view_memory(binding.memory_instance_get_pointer(memory, 0, 1), 2 << 16) as view:
        assert bytes(view[10:17]) == b"content"
    add = binding.module_instance_find_function(instance, Text(b"add"))
    values = (ctypes.c_uint64 * 8)(50, 0, types[0], 0, 8, 0, types[1], 0)
    returned = (ctypes.c_uint64 * 4)()
    assert binding.executor_invoke(executor, add, values, 2, returned, 1) == 0
    assert returned[0] & 0xFFFFFFFF == 1042
    assert seen == [(50, 8, 2)]
    binding.module_instance_delete(instance)
    binding.executor_delete(executor)
    binding.statistics_delete(statistics)
    binding.store_delete(store)
    binding.module_instance_delete(host)
    binding.ast_module_delete(parsed)
    binding.validator_delete(validator)
    binding.loader_delete(loader)


def test_the_library_writes_nothing() -> None:
    """Its log goes to standard output, which is the app's, until it is switched off."""
    script = """if True:
        from contract_runs import Loader, invoke
        from engine_variant import tested_variant
        from guest_builds import parse_wat
        from limpet.engine import open_engine
        from limpet.engine.protocol import ModuleError
        engine = open_engine("wasmedge")
        load = Loader(engine, tested_variant().options)
        for body in ("unreachable", "(drop (i32.load (i32.const 99999)))", "(loop $l (br $l))"):
            program = load.wat(f'(memory 1) (func (export "_start") {body})')
            assert program.run(invoke(deadline_seconds=0.01)).message
        good = parse_wat('(module (func (export "_start") (drop (i32.const 7))))')
        try:
            engine.compile_module(good.replace(bytes([0x41, 7, 0x1a]), bytes([0x42, 7, 0x45])))
        except ModuleError as error:
            assert "compiled" in str(error), error
        """
    done = subprocess.run(
        this_python("-c", script), env=_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_needs_nothing_that_workers_do_without() -> None:
    script = (
        "from limpet.engine import open_engine; import sys, os; open_engine('wasmedge'); "
        "unwanted = {'asyncio', 'hashlib', 'subprocess', 'socket', 'ssl', 'tempfile', 'logging', "
        "'mmap', 'importlib.metadata'} & set(sys.modules); assert not unwanted, unwanted; "
        "assert len(os.listdir('/proc/self/task')) == 1"
    )
    subprocess.run(this_python("-c", script), env=_environment(), check=True)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
