;; Proposals that are on: multi-value, bulk memory, sign extension, reference types, tail calls, SIMD.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (table 4 funcref)
  (elem declare func $two)
  (func $two (result i32 i32) (i32.const 3) (i32.const 4))
  (func $count (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 7))
      (else (return_call $count (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "_start")
    (table.set (i32.const 1) (ref.func $two))
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 16))
    (call $exit
      (i32.add
        (i32.add (call $two))
        (i32.add
          (call $count (i32.const 100000))
          (i32x4.extract_lane 1 (i32x4.add (v128.load (i32.const 0)) (v128.const i32x4 0 -16843008 0 0))))))))
