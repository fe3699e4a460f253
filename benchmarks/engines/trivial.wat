;; The least that a run is: an instance with a memory, and a call.
(module
  (memory (export "memory") 1)
  (func (export "_start")))
