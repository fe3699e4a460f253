;; fib(30) by plain recursion, 2.7 million calls, once for each argument that there is, the program's name
;; included. What to compute and each result go through memory, where no compiler can tell that they don't
;; meet: none computes anything in advance, only once, or not at all.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\1e\00\00\00")
  (func $fib (param $n i32) (result i32)
    (if (result i32) (i32.lt_u (local.get $n) (i32.const 2))
      (then (local.get $n))
      (else
        (i32.add
          (call $fib (i32.sub (local.get $n) (i32.const 1)))
          (call $fib (i32.sub (local.get $n) (i32.const 2)))))))
  (func (export "_start") (local $left i32) (local $result i32)
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (local.set $left (i32.load (i32.const 0)))
    (loop $again
      (local.set $result (call $fib (i32.load (i32.const 16))))
      (i32.store (i32.and (local.get $result) (i32.const 0xfff0)) (local.get $result))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))))
