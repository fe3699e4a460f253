"""Every manifest of tests/golden/manifest beside what it means, or what is wrong with it.

LIMPET_WRITE_GOLDEN=1 writes the expectations anew; read the difference before you keep it.
"""

import base64
import dataclasses
import json
import os
from pathlib import Path

import pytest

from limpet.addresses import Network
from limpet.manifest import ManifestError, load_documents, parse_object

FOLDER = Path(__file__).parent / "manifest"
CASES = sorted(FOLDER.glob("*.yaml"))
IS_WRITING = os.environ.get("LIMPET_WRITE_GOLDEN") == "1"


def dump(value):
    if isinstance(value, Network):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: dump(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(item) for item in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value


def outcome(path: Path) -> tuple[str, str]:
    """The suffix of the expectation and its text."""
    resources, problems = [], []
    try:
        documents = load_documents(path.read_bytes(), file=path.name)
    except ManifestError as error:
        return ".error.txt", f"{error}\n"
    for document in documents:
        try:
            resources.append(dump(parse_object(document.object, locate=document.locate)))
        except ManifestError as error:
            problems.append(str(error))
    if problems:
        return ".error.txt", "\n".join(problems) + "\n"
    return ".expected.json", json.dumps(resources, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_manifest_is_read_as_expected(path):
    suffix, text = outcome(path)
    stem = path.name.partition(".")[0]
    if IS_WRITING:
        for old in (".error.txt", ".expected.json"):
            (FOLDER / (stem + old)).unlink(missing_ok=True)
        (FOLDER / (stem + suffix)).write_text(text)
    assert (FOLDER / (stem + suffix)).read_text() == text


def test_no_expectation_is_left_over():
    stems = {path.name.partition(".")[0] for path in CASES}
    expected = {*FOLDER.glob("*.error.txt"), *FOLDER.glob("*.expected.json")}
    assert {path.name.partition(".")[0] for path in expected} == stems
    assert len(expected) == len(CASES)
