"""HTTP/1.1 for servers, without I/O: bytes in, requests out; responses in, bytes out.

The worker, the ingress router and the node's API share it, so there is one place where a request is
read, bounded and refused. Parsing itself is llhttp's (through httptools), in its strict mode.
"""
