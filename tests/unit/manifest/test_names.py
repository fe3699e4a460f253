import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.manifest import names
from limpet.manifest.annotations import is_listen_address
from limpet.manifest.module_source import ModuleSourceError, parse_module_source

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.check_label, ["a", "a-1", "1a", "a" * 63], ["", "-a", "A", "a.b", "a" * 64, "a\n"]),
        (names.check_service_name, ["a-1"], ["1a", "a.b", ""]),
        (names.check_subdomain, ["a.b-c.d", "a" * 253], ["a..b", ".a", "a.", "a_b", "a" * 254]),
        (names.check_qualified_name, ["a", "A_b.c", "x.y/Z"], ["", "/a", "X/a", "a/b/c", "a" * 64]),
        (names.check_annotation_key, ["X.y/Z"], ["", "a b", "a/"]),
        (names.check_label_value, ["", "A_b.c"], ["-", "a b", "a" * 64]),
        (names.check_port_name, ["http", "a-1", "8a"], ["", "80", "a--b", "-a", "HTTP", "a" * 16]),
        (names.check_config_key, ["a.B_c-1", "...a"[2:]], ["", ".", "..", "..a", "a/b", "a" * 254]),
        (names.check_variable_name, ["A", "a b", "1"], ["", "A=B", "é", "a\n"]),
        (names.check_url_path, ["/", "/a/", "/a%20b"], ["", "a", "//", "/a/../b", "/a b", "/%2F"]),
    ],
)
def test_names_are_checked_as_kubernetes_does(check, good, bad):
    assert [text for text in good if check(text) is not None] == []
    assert [text for text in bad if check(text) is None] == []


@pytest.mark.parametrize(
    ("text", "scheme", "location", "digest"),
    [
        ("x.wasm", "file", "x.wasm", None),
        ("./dir/x.wasm", "file", "./dir/x.wasm", None),
        ("/abs/x.wasm", "file", "/abs/x.wasm", None),
        ("file:///abs/x.wasm", "file", "/abs/x.wasm", None),
        ("https://h/x.wasm", "https", "https://h/x.wasm", None),
        ("HTTPS://h:8443/x?y", "https", "https://h:8443/x?y", None),
        (f"https://[::1]/x#sha256={DIGEST[7:].upper()}", "https", "https://[::1]/x", DIGEST),
        ("hello", "oci", "hello:latest", None),
        ("hello:1", "oci", "hello:1", None),
        ("ghcr.io/x/y:1", "oci", "ghcr.io/x/y:1", None),
        ("localhost:5000/y", "oci", "localhost:5000/y:latest", None),
        ("oci://r.example/x/y.wasm:1", "oci", "r.example/x/y.wasm:1", None),
        (f"r.example/x:1@{DIGEST}", "oci", f"r.example/x@{DIGEST}", DIGEST),
    ],
)
def test_modules_come_from_files_urls_and_registries(text, scheme, location, digest):
    source = parse_module_source(text)
    assert (source.scheme, source.location, source.digest) == (scheme, location, digest)


@pytest.mark.parametrize(
    "text",
    [
        "", "http://h/x.wasm", "http://127.0.0.1/x.wasm", "ftp://h/x", "https://", "https:///x",
        "https://u:p@h/x", "https://h:99999/x", "https://h:/x", "https://h/x#y", "file://h/x.wasm",
        "file:///x", "file:///a%00.wasm", "./x", "/x", "x.cwasm", "A/b", "a:", "a:b:c", "a@sha1:1",
        "a//b", "oci://", "a b.wasm", "a\0.wasm", "-a", "r.example:x/a", "a" * 3000,
    ],
)  # fmt: skip
def test_other_sources_are_refused(text):
    with pytest.raises(ModuleSourceError) as caught:
        parse_module_source(text)
    assert "u:p" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_refused(text):
    try:
        source = parse_module_source(text)
    except ModuleSourceError:
        return
    assert source.location
    assert source.location.isprintable()


def test_addresses_to_listen_on():
    good = ["0.0.0.0:8080", "[::]:0", "localhost:80", "127.0.0.1:65535", "edge-1.local:1"]
    bad = ["", ":80", "8080", "a:", "a:65536", "::1:80", "[::1]", "[x]:1", "1.2.3:1", "a:-1", "a:٣"]
    assert [text for text in good if not is_listen_address(text)] == []
    assert [text for text in bad if is_listen_address(text)] == []


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_is_not(text):
    assert is_listen_address(text) in {True, False}
