"""docs/manifest.md is kept true: its example is read, its tables know every name."""

import re
from pathlib import Path

import pytest

from limpet import addresses
from limpet.manifest import (
    annotations,
    config,
    container,
    load_documents,
    metadata,
    network_policy,
    parse_object,
    pod,
    probes,
    resources,
    security,
    service,
    volumes,
    workload,
)
from limpet.manifest.model import Facility

TEXT = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text()


def test_every_example_is_accepted():
    examples = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
    assert examples
    for example in examples:
        for document in load_documents(example, file="docs/manifest.md"):
            parse_object(document.object, locate=document.locate)


@pytest.mark.parametrize("name", annotations._APP_KEYS)
def test_every_annotation_is_explained(name):
    assert f"| `{name}` |" in TEXT


@pytest.mark.parametrize(
    "name",
    sorted(
        {
            *pod._REFUSALS,
            *pod._SCHEDULING,
            *container._REFUSALS,
            *security._REFUSALS,
            *service._REFUSALS,
            *config._CLAIM_REFUSALS,
            *metadata._REFUSALS,
            *network_policy._PEER_REFUSALS,
            *addresses._GUARDED,
            *Facility,
            *probes._REFUSALS,
            *resources._REFUSALS,
            *volumes._REFUSALS,
            *volumes._MOUNT_REFUSALS,
            *workload._JOB_REFUSALS,
        }
    ),
)
def test_every_known_field_is_in_a_table(name):
    assert f"`{name}`" in TEXT
