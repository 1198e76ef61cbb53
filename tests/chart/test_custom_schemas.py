"""The schemas of our own take what the operators' documentation shows, and refuse slips."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.chart.kubernetes_schemas import KUBERNETES_VERSIONS, fault

METADATA = {"name": "one", "labels": {"app.kubernetes.io/name": "coldfusion"}}

GOOD: dict[str, dict[str, Any]] = {
    "scaled": {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": METADATA,
        "spec": {
            "scaleTargetRef": {"name": "one"},
            "minReplicaCount": 0,
            "maxReplicaCount": 4,
            "cooldownPeriod": 600,
            "fallback": {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicas"},
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"selectPolicy": "Disabled"}}
                },
                "scalingModifiers": {"formula": "waiting + running", "target": "1"},
            },
            "triggers": [
                {
                    "type": "redis",
                    "name": name,
                    "metadata": {"address": "a.b.svc:6379", "listName": key, "listLength": "1"},
                    "authenticationRef": {"name": "one"},
                }
                for name, key in (("waiting", "finetune"), ("running", "unacked:finetune"))
            ],
        },
    },
    "authentication": {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": METADATA,
        "spec": {"secretTargetRef": [{"parameter": "password", "name": "one", "key": "PASSWORD"}]},
    },
    "pods": {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": METADATA,
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "podMetricsEndpoints": [{"port": "metrics", "interval": "1m30s"}],
        },
    },
    "service": {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": METADATA,
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "endpoints": [{"port": "metrics", "path": "/metrics"}],
        },
    },
    "rules": {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": METADATA,
        "spec": {
            "groups": [
                {
                    "name": "one",
                    "rules": [
                        {
                            "alert": "NothingFused",
                            "expr": "up == 0",
                            "for": "5m",
                            "labels": {"severity": "critical"},
                            "annotations": {"summary": "s"},
                        },
                        {"record": "job:up:sum", "expr": "sum by (job) (up)"},
                    ],
                }
            ]
        },
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_documentation_shows_is_valid(name: str) -> None:
    assert fault(GOOD[name], KUBERNETES_VERSIONS[-1]) is None


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("scaled", "spec.minReplicas", 0),
        ("scaled", "spec.scaleTargetRef.kind", "ReplicaSet"),
        ("scaled", "spec.triggers.0.metadata.listLength", 1),
        ("scaled", "spec.triggers.0.metadata.list", "finetune"),
        ("scaled", "spec.triggers.0.metadata.address", "redis://a:6379"),
        ("scaled", "spec.triggers.0.metadata.enableTLS", True),
        ("scaled", "spec.triggers.0.name", "not-a-variable"),
        ("scaled", "spec.triggers.0.type", "rabbitmq"),
        ("scaled", "spec.advanced.scalingModifiers.target", 1),
        ("scaled", "spec.advanced.horizontalPodAutoscalerConfig.behavior", {}),
        ("scaled", "spec.fallback.behavior", "none"),
        ("scaled", "spec.idleReplicaCount", 1),
        ("authentication", "spec.secretTargetRef.0.parameter", "pasword"),
        ("authentication", "spec.secretTargetRef.0.namespace", "other"),
        ("pods", "spec.podMetricsEndpoints.0.interval", "90 s"),
        ("pods", "spec.endpoints", []),
        ("service", "spec.endpoints.0.port", 9464),
        ("rules", "spec.groups.0.rules.0.for", 300),
        ("rules", "spec.groups.0.rules.1.annotations", {}),
        ("rules", "spec.groups.0.rules.0.labels.severity", 1),
        ("rules", "metadata.labels", None),
    ],
)
def test_a_slip_is_a_fault(name: str, path: str, value: object) -> None:
    wrong = copy.deepcopy(GOOD[name])
    *parents, last = path.split(".")
    node: Any = wrong
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    node[last] = value

    assert fault(wrong, KUBERNETES_VERSIONS[-1]) is not None


def test_a_formula_needs_the_names_of_its_triggers() -> None:
    wrong = copy.deepcopy(GOOD["scaled"])
    del wrong["spec"]["triggers"][1]["name"]

    assert fault(wrong, KUBERNETES_VERSIONS[-1]) is not None
