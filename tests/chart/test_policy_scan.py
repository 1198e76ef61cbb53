"""The scan takes no finding without an explanation, and no explanation without a finding."""

from __future__ import annotations

from tests.chart.policy_scan import (
    Exemption,
    Finding,
    read_exemptions,
    read_findings,
    unexplained,
)

FINDING = Finding("CKV_K8S_1", "Deployment/cf-coldfusion-beat", "a title")


def test_a_finding_that_nothing_explains_is_open() -> None:
    other_check = Exemption("CKV_K8S_2", "*", "for another")
    other_object = Exemption("CKV_K8S_1", "Deployment/*-fusion", "for another")

    assert unexplained([FINDING], [other_check, other_object]) == (
        [FINDING],
        [other_check, other_object],
    )


def test_a_finding_that_is_explained_is_not_open() -> None:
    exemption = Exemption("CKV_K8S_1", "Deployment/*-beat", "it is meant")

    assert unexplained([FINDING], [exemption]) == ([], [])


def test_a_finding_of_many_files_is_one() -> None:
    failed = {
        "check_id": "CKV_K8S_1",
        "resource": "Deployment.coldfusion.cf-coldfusion-beat",
        "check_name": "a title",
    }

    assert read_findings({"results": {"failed_checks": [failed, failed]}}) == [FINDING]


def test_every_exemption_has_a_reason() -> None:
    assert [one for one in read_exemptions() if len(one.reason.split()) < 5] == []
