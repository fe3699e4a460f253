;; The peer's handler: the answer of examples/hello as a wasi:http 0.2 component, written by hand so
;; that nothing of a language's runtime is in it. It is cheaper than our own guest: it never looks at
;; its request, and its answer is a constant. The order of calls is the one that wasi:http documents.
(component
  (import "wasi:io/error@0.2.0" (instance $io-error
    (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $error (type $outer-error))
    (export "error" (type $error (eq $outer-error)))
    (type $variant (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $variant)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $output-stream (type $outer-output-stream))
    (export "output-stream" (type $output-stream (eq $outer-output-stream)))
    (export "fields" (type $fields (sub resource)))
    (export "trailers" (type $trailers (eq $fields)))
    (export "incoming-request" (type $incoming-request (sub resource)))
    (export "response-outparam" (type $response-outparam (sub resource)))
    (export "outgoing-response" (type $outgoing-response (sub resource)))
    (export "outgoing-body" (type $outgoing-body (sub resource)))
    (type $dns-record (record
      (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns-error (eq $dns-record)))
    (type $tls-record (record
      (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls-alert (eq $tls-record)))
    (type $size-record (record
      (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field-size (eq $size-record)))
    (type $error-variant (variant
      (case "DNS-timeout")
      (case "DNS-error" $dns-error)
      (case "destination-not-found")
      (case "destination-unavailable")
      (case "destination-IP-prohibited")
      (case "destination-IP-unroutable")
      (case "connection-refused")
      (case "connection-terminated")
      (case "connection-timeout")
      (case "connection-read-timeout")
      (case "connection-write-timeout")
      (case "connection-limit-reached")
      (case "TLS-protocol-error")
      (case "TLS-certificate-error")
      (case "TLS-alert-received" $tls-alert)
      (case "HTTP-request-denied")
      (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid")
      (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $field-size))
      (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $field-size)
      (case "HTTP-response-incomplete")
      (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $field-size)
      (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $field-size)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed")
      (case "HTTP-protocol-error")
      (case "loop-detected")
      (case "configuration-error")
      (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $error-variant)))
    (type $header-variant (variant
      (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $header-error (eq $header-variant)))
    (export "[static]fields.from-list" (func
      (param "entries" (list (tuple string (list u8))))
      (result (result (own $fields) (error $header-error)))))
    (export "[constructor]outgoing-response" (func
      (param "headers" (own $fields)) (result (own $outgoing-response))))
    (export "[method]outgoing-response.body" (func
      (param "self" (borrow $outgoing-response)) (result (result (own $outgoing-body)))))
    (export "[method]outgoing-body.write" (func
      (param "self" (borrow $outgoing-body)) (result (result (own $output-stream)))))
    (export "[static]outgoing-body.finish" (func
      (param "this" (own $outgoing-body)) (param "trailers" (option (own $trailers)))
      (result (result (error $error-code)))))
    (export "[static]response-outparam.set" (func
      (param "param" (own $response-outparam))
      (param "response" (result (own $outgoing-response) (error $error-code)))))))
  (alias export $http "incoming-request" (type $incoming-request))
  (alias export $http "response-outparam" (type $response-outparam))

  ;; Memory comes first, so that the imports below can be lowered onto it.
  (core module $store
    (memory (export "memory") 1)
    ;; Only an error would need memory here, and an error ends the handler.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    ;; 16: the list of headers, one of (name, value) as addresses and lengths.
    (data (i32.const 16) "\40\00\00\00\0c\00\00\00\50\00\00\00\19\00\00\00")
    (data (i32.const 64) "content-type")
    (data (i32.const 80) "text/plain; charset=utf-8")
    (data (i32.const 128) "Hello, world!\0aYou sent GET /\0a"))
  (core instance $store (instantiate $store))
  (alias core export $store "memory" (core memory $memory))
  (alias core export $store "realloc" (core func $realloc))

  (core func $from-list
    (canon lower (func $http "[static]fields.from-list") (memory $memory)))
  (core func $new-response
    (canon lower (func $http "[constructor]outgoing-response")))
  (core func $body
    (canon lower (func $http "[method]outgoing-response.body") (memory $memory)))
  (core func $write
    (canon lower (func $http "[method]outgoing-body.write") (memory $memory)))
  (core func $write-bytes (canon lower
    (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (core func $finish (canon lower (func $http "[static]outgoing-body.finish")
    (memory $memory) (realloc $realloc)))
  (core func $set
    (canon lower (func $http "[static]response-outparam.set") (memory $memory)))
  (core func $drop-stream (canon resource.drop $output-stream))

  (core module $main
    (import "host" "from-list" (func $from-list (param i32 i32 i32)))
    (import "host" "new-response" (func $new-response (param i32) (result i32)))
    (import "host" "body" (func $body (param i32 i32)))
    (import "host" "write" (func $write (param i32 i32)))
    (import "host" "write-bytes" (func $write-bytes (param i32 i32 i32 i32)))
    (import "host" "finish" (func $finish (param i32 i32 i32 i32)))
    (import "host" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "host" "drop-stream" (func $drop-stream (param i32)))
    (import "store" "memory" (memory 1))
    ;; Results arrive at 256: the discriminant in its first byte, a handle at 260.
    (func $take (result i32)
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (i32.load (i32.const 260)))
    (func (export "handle") (param $request i32) (param $out i32)
      (local $response i32) (local $body i32) (local $stream i32)
      (call $from-list (i32.const 16) (i32.const 1) (i32.const 256))
      (local.set $response (call $new-response (call $take)))
      (call $body (local.get $response) (i32.const 256))
      (local.set $body (call $take))
      (call $set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0) (i64.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $write (local.get $body) (i32.const 256))
      (local.set $stream (call $take))
      (call $write-bytes (local.get $stream) (i32.const 128) (i32.const 29) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (call $drop-stream (local.get $stream))
      (call $finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 256))))
  (core instance $main (instantiate $main
    (with "store" (instance $store))
    (with "host" (instance
      (export "from-list" (func $from-list))
      (export "new-response" (func $new-response))
      (export "body" (func $body))
      (export "write" (func $write))
      (export "write-bytes" (func $write-bytes))
      (export "finish" (func $finish))
      (export "set" (func $set))
      (export "drop-stream" (func $drop-stream))))))

  (func $handle
    (param "request" (own $incoming-request)) (param "response-out" (own $response-outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
