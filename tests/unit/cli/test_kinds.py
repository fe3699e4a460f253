from __future__ import annotations

import pytest

from limpet.cli import kinds
from limpet.cli.kinds import TargetError, parse_kind, parse_targets


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("apps app App", kinds.APP),
        ("deployments deployment deploy Deployment deployments.apps", kinds.DEPLOYMENT),
        ("pods pod po", kinds.POD),
        ("jobs job jobs.batch", kinds.JOB),
        ("services service svc", kinds.SERVICE),
        ("configmaps configmap cm ConfigMap", kinds.CONFIG_MAP),
        ("secrets secret", kinds.SECRET),
        ("pvc pvcs persistentvolumeclaims persistentvolumeclaim", kinds.CLAIM),
        ("ingresses ingress ing", kinds.INGRESS),
        ("netpol networkpolicies networkpolicy NetworkPolicy", kinds.NETWORK_POLICY),
        ("events event ev", kinds.EVENT),
        ("nodes node no", kinds.NODE),
    ],
)
def test_kubectls_names(words, kind):
    assert {parse_kind(word) for word in words.split()} == {kind}


def test_unknown_kind_names_the_nearest():
    with pytest.raises(TargetError, match=r"servics is no kind.*did you mean service"):
        parse_kind("servics")
    with pytest.raises(TargetError, match=r"known are apps, deployments"):
        parse_kind("qqqqqq")


@pytest.mark.parametrize(
    ("words", "targets"),
    [
        (["hello"], [(kinds.APP, "hello")]),
        (["hello", "world"], [(kinds.APP, "hello"), (kinds.APP, "world")]),
        (["deploy/hello", "svc/web"], [(kinds.DEPLOYMENT, "hello"), (kinds.SERVICE, "web")]),
        (["svc", "a", "b"], [(kinds.SERVICE, "a"), (kinds.SERVICE, "b")]),
        (["node"], [(kinds.APP, "node")]),
        ([], []),
    ],
)
def test_targets(words, targets):
    assert parse_targets(words, default=kinds.APP) == targets


@pytest.mark.parametrize("words", [["deploy/"], ["a/b/c"], ["svc", "pod/x"], ["what/x"], [".."]])
def test_bad_targets(words):
    with pytest.raises(TargetError):
        parse_targets(words, default=kinds.APP)
