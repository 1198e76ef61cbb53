"""The embedded servers are given the rights of the files, one user and identity for each role."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from tests.acceptance.access import ACL_FILES, POLICIES, acl_rules, policy
from tests.chart.rendering import CHART, Object, render, render_values


def credentials(objects: tuple[Object, ...]) -> dict[str, str]:
    """The secret that the servers' own files are in."""
    (found,) = [
        one["stringData"]
        for one in objects
        if one["kind"] == "Secret" and "users.acl" in one.get("stringData", {})
    ]
    return dict(found)


def seaweedfs(secret: dict[str, str]) -> dict[str, Any]:
    return dict(json.loads(secret["seaweedfs.json"]))


def test_seaweedfs_knows_each_role_with_a_policy_and_nobody_who_may_do_more() -> None:
    values = {"repository": {"name": "shared.one"}, "objectStore": {"bucket": "models"}}
    secret = credentials(render_values(values))
    config = seaweedfs(secret)

    assert set(config) == {"identities", "policies"}
    rights = {one["name"]: json.loads(one["content"]) for one in config["policies"]}
    assert rights == {role: policy(role, "models", "shared.one") for role in rights}
    assert set(rights) == set(POLICIES) - {"site"}
    for identity in config["identities"]:
        role = identity["name"]
        keys = {"accessKey": f"{role}-s3-access-key", "secretKey": f"{role}-s3-secret-key"}
        own = [{name: secret[key] for name, key in keys.items()}]
        assert identity == {"name": role, "policyNames": [role], "credentials": own}
    assert {one["name"] for one in config["identities"]} == set(rights)


def test_valkey_knows_each_role_by_the_digest_of_its_password() -> None:
    secret = credentials(render_values({"repository": {"name": "shared.one"}}))
    users = dict(line.split(" ", 2)[1:] for line in secret["users.acl"].splitlines())

    assert users.pop("default") == "off"
    users.pop("admin")
    assert set(users) <= set(ACL_FILES)
    for role, rules in users.items():
        digest = sha256(secret[f"{role}-broker-password"].encode()).hexdigest()
        assert rules.split() == ["on", f"#{digest}", *acl_rules(role, "shared.one", "")]


def test_each_site_has_a_user_and_an_identity_of_its_own() -> None:
    secret = credentials(render(CHART / "ci" / "sites-values.yaml"))
    users = {line.split()[1]: line.split()[4:] for line in secret["users.acl"].splitlines()[1:]}
    identities = {one["name"] for one in seaweedfs(secret)["identities"]}

    sites = [name.removeprefix("site-") for name in users if name.startswith("site-")]
    assert sites != []
    for site in sites:
        assert users[f"site-{site}"] == acl_rules("site", "default", site)
        assert f"~finetune.{site}" in users[f"site-{site}"]
        assert f"site-{site}" in identities
