import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpet.manifest.quantity import (
    QuantityError,
    format_bytes,
    format_cpu,
    format_duration,
    parse_bytes,
    parse_cpu,
    parse_duration,
)

SUFFIXES = {
    **{f"{letter}i": Fraction(1024) ** (i + 1) for i, letter in enumerate("KMGTPE")},
    **{s: Fraction(10) ** e for s, e in zip(("n", "u", "m", ""), (-9, -6, -3, 0), strict=True)},
    **{s: Fraction(1000) ** (i + 1) for i, s in enumerate("kMGTPE")},
}
NUMBERS = st.from_regex(r"\+?([0-9]{1,12}(\.[0-9]{0,6})?|\.[0-9]{1,6})", fullmatch=True)
EXPONENTS = st.integers(-20, 20).flatmap(
    lambda e: st.sampled_from([f"e{e}", f"E{e}"] + ([f"e+{e}"] if e >= 0 else []))
)


def reference(number: str, suffix: str) -> Fraction:
    scale = SUFFIXES[suffix] if suffix in SUFFIXES else Fraction(10) ** int(suffix[1:])
    return Fraction("0" + number.removeprefix("+")) * scale


@given(NUMBERS, st.sampled_from(sorted(SUFFIXES)) | EXPONENTS)
def test_quantities_agree_with_exact_fractions(number, suffix):
    value = reference(number, suffix)
    if value > 2**63 - 1:
        with pytest.raises(QuantityError):
            parse_bytes(number + suffix)
        return
    assert parse_bytes(number + suffix) == math.ceil(value)
    assert parse_cpu(number + suffix) == math.ceil(value * 1000) / 1000


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1", 1),
        ("64Mi", 64 << 20),
        ("1.5Gi", 3 << 29),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("12.", 12),
        (".5k", 500),
        ("100m", 1),
        ("1e-999999999", 1),
        ("0e999999999", 0),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_bytes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "1 Mi", "Mi", ".", "+", "1KiB", "1mi", "1K", "1ki", "1e", "1e1.5", "1_000",
        "0x10", "inf", "nan", "1\n", "٣", "8Ei", "1e999999999", "9223372036854775808", "1" * 65,
    ],
)  # fmt: skip
def test_bad_quantities_are_quoted_beside_a_good_one(text):
    for parse, example in ((parse_bytes, "64Mi"), (parse_cpu, "500m")):
        with pytest.raises(QuantityError) as caught:
            parse(text)
        assert example in str(caught.value)
        assert str(caught.value).startswith('"')
        assert len(str(caught.value)) < 200


@given(st.text(max_size=80))
def test_any_text_is_a_quantity_or_refused(text):
    for parse in (parse_bytes, parse_cpu, parse_duration):
        try:
            value = parse(text)
        except QuantityError:
            continue
        assert 0 <= value < 2**64


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0), ("0s", 0.0), ("90s", 90.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0),
        ("1h1m1s1ms", 3661.001), (".5s", 0.5), ("1.s", 1.0), ("2us", 2e-6), ("2µs", 2e-6),
        ("1ns", 1e-9),
    ],
)  # fmt: skip
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "-1s", "1", "1d", "s", "1s ", "1 s", ".s", "1e3s", "9999999h", "1m30", "٣s"]
)
def test_bad_durations_are_quoted_beside_a_good_one(text):
    with pytest.raises(QuantityError, match="90s, 1m30s or 500ms"):
        parse_duration(text)


@given(st.integers(0, 2**62))
def test_formatted_bytes_are_read_back_near_the_same(count):
    text = format_bytes(count)
    assert len(text) <= 8
    assert abs(parse_bytes(text) - count) <= count * 0.05 + 1


@given(st.integers(0, 10**6))
def test_formatted_cpu_is_read_back(thousandths):
    assert parse_cpu(format_cpu(thousandths / 1000)) == thousandths / 1000


@given(st.integers(0, 10**9))
def test_formatted_durations_are_read_back(millis):
    assert parse_duration(format_duration(millis / 1000)) == millis / 1000


def test_people_read_short_forms():
    assert [format_bytes(n) for n in (0, 1023, 1024, 64 << 20, 3 << 29, 10**6, (1 << 20) - 1)] == [
        "0", "1023", "1Ki", "64Mi", "1.5Gi", "976.6Ki", "1Mi",
    ]  # fmt: skip
    assert [format_cpu(c) for c in (0.5, 2, 0.05)] == ["500m", "2", "50m"]
    assert [format_duration(s) for s in (0, 90, 0.5, 2.5, 3600, 86400, 5e-5)] == [
        "0s", "1m30s", "500ms", "2.5s", "1h", "24h", "50us",
    ]  # fmt: skip
