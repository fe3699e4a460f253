"""What times mean between a server and a device whose clock may be wrong. Pure but for that clock."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_WAIT_SECONDS = 120.0
"""A server that asks for more patience is asked again after this."""
# OpenSSL's x509_vfy.h: X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED.
_OF_TIME = frozenset({9, 10})


def parse_retry_after(value: str, date: str) -> float:
    """The seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), 0 for none, bounded.

    A date counts from the server's own clock, its Date header: this device's may be wrong.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(LONGEST_WAIT_SECONDS, float(text[:9]))
    try:
        pause = (parsedate_to_datetime(text) - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(LONGEST_WAIT_SECONDS, max(0.0, pause))


def explain_clock(error: BaseException) -> str:
    """What to add about a certificate that is not valid now; empty for other errors."""
    if not isinstance(error, ssl.SSLCertVerificationError) or error.verify_code not in _OF_TIME:
        return ""
    now = datetime.fromtimestamp(time.time(), UTC)
    return f"; this device's clock says {now:%Y-%m-%d %H:%M} UTC: set it if that is wrong"
