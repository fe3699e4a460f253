;; Recurses as `recurse` does, and stores after each call: no compiler makes a loop of that.
(module
  (memory (export "memory") 1)
  (func $deeper
    (call $deeper)
    (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))))
  (func (export "_start")
    (call $deeper)))
