;; Recurses until the engine's call stack ends; its own memory is not involved.
(module
  (memory (export "memory") 1)
  (func $deeper (result i32)
    (i32.add (call $deeper) (i32.const 1)))
  (func (export "_start")
    (drop (call $deeper))))
