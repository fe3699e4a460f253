import pytest

from limpet.manifest.scalars import ScalarError, parse_scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False),
        ("yes", "yes"), ("No", "No"), ("on", "on"), ("off", "off"), ("y", "y"), ("tRue", "tRue"),
        ("12", 12), ("-3", -3), ("+3", 3), ("0", 0), ("0o17", 15), ("0x1F", 31),
        ("0644", 420), ("-0", 0), ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"),
        ("2026-01-02", "2026-01-02"), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0),
        ("-", "-"), (".", "."), ("1.2.3", "1.2.3"), ("\u0661", "\u0661"),
        ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_words_mean_what_yaml_1_2_says(text, value):
    read = parse_scalar(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text", [".nan", "-.inf", ".INF", "1e999", "9223372036854775808", "9" * 5000, "08", "-09"]
)
def test_numbers_that_json_cannot_hold_are_refused_unseen(text):
    with pytest.raises(ScalarError) as caught:
        parse_scalar(text)
    assert text not in str(caught.value)
