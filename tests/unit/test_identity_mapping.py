"""Which local user a principal is, by a file in Globus Compute's form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.endpoint.errors import ConfigInvalid, IdentityUnmapped
from headrace.endpoint.identity_mapping import IdentityMapping
from headrace.endpoint.local_users import LocalUser

ADA = "urn:headrace:user:ada@example.org"
GLOBUS = "urn:globus:auth:identity:3f9c24e8-3b12-4fef-91e0-1b2c3d4e5f60"


def mapping(*expressions: dict[str, Any]) -> IdentityMapping:
    document = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": list(expressions)}]
    return IdentityMapping.parse(json.dumps(document), name="who.json")


@pytest.mark.parametrize(
    ("expression", "principal", "name"),
    [
        ({"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}, ADA, "ada"),
        ({"source": "{email}", "match": "(.*)@(.*)\\.org", "output": "{1}-{0}"}, ADA, "example-ada"),
        ({"source": "{username}", "match": "^(.*)@example\\.org$", "output": "{0}"}, ADA, "ada"),
        ({"source": "{username}", "match": "ADA@EXAMPLE.ORG", "output": "a", "ignore_case": True}, ADA, "a"),
        ({"source": "{username}", "match": "ada@example.org", "output": "a", "literal": True}, ADA, "a"),
        ({"source": "{id}", "match": GLOBUS.rpartition(":")[2], "output": "g"}, GLOBUS, "g"),
        ({"source": "{urn}", "match": ADA, "output": "a", "literal": True}, ADA, "a"),
        ({"source": "x-{username}", "match": "x-ada@.*", "output": "a"}, ADA, "a"),
    ],
)
def test_a_principal_is_who_the_first_match_says(expression: dict[str, Any], principal: str, name: str) -> None:
    nobody = {"source": "{username}", "match": "nobody", "output": "nobody"}
    later = {"source": "{urn}", "match": ".*", "output": "later"}
    assert mapping(nobody, expression, later).local_name(principal) == name


def test_user_names_of_another_system_are_matched_that_of_the_principal_first() -> None:
    other = "urn:globus:auth:identity:4f9c24e8-3b12-4fef-91e0-1b2c3d4e5f60"
    of_org = mapping({"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"})
    assert of_org.local_name(GLOBUS, {GLOBUS: "ada@example.org", other: "lovelace@example.org"}) == "ada"
    assert of_org.local_name(GLOBUS, {GLOBUS: "ada@home.net", other: "lovelace@example.org"}) == "lovelace"
    # Nobody becomes somebody by a user name of this service that looks like one of another system, or the other way.
    assert of_org.local_name(ADA, {ADA: "root@example.org"}) == "ada"
    with pytest.raises(IdentityUnmapped):
        of_org.local_name(GLOBUS, {GLOBUS: "ada@example.org.evil.net"})


@pytest.mark.parametrize(
    ("expression", "principal"),
    [
        # The whole text must match, not a part of it.
        ({"source": "{username}", "match": "ada", "output": "a"}, ADA),
        ({"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}, f"{ADA}.evil.example"),
        ({"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}, "urn:other:user:ada@example.org"),
        ({"source": "{username}", "match": "ada@example.org", "output": "a", "literal": True}, f"{ADA}x"),
        ({"source": "{username}", "match": "ada@example.org", "output": "a", "literal": True}, ADA.replace(".", "x")),
        ({"source": "{username}", "match": "ADA@example.org", "output": "a"}, ADA),
        ({"source": "{email}", "match": ".*", "output": "a"}, "urn:headrace:user:ada"),
        ({"source": "{username}", "match": ".*", "output": "a"}, GLOBUS),
        ({"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}, "urn:headrace:user:@example.org"),
    ],
)
def test_who_matches_nothing_is_nobody(expression: dict[str, Any], principal: str) -> None:
    with pytest.raises(IdentityUnmapped, match="identity mapping"):
        mapping(expression).local_name(principal)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "who.json, line 1, column 2"),
        ("[]", "/"),
        ('[{"DATA_TYPE": "expression_identity_mapping#1.0.0"}]', "mappings"),
        ('{"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["x"]}', "external programs are not asked"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        IdentityMapping.parse(text, name="who.json")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"source": "{usrname}", "match": "x", "output": "y"}, "/0/mappings/0/source: {usrname} is not known"),
        ({"source": "{username}", "match": "(", "output": "y"}, "/0/mappings/0/match: '(' is not a regular"),
        ({"source": "{username}", "match": "(x)", "output": "{1}"}, "/0/mappings/0/output: {1} asks for group 2"),
        ({"source": "{username}", "match": "x", "output": "{0}"}, "which has 0"),
    ],
)
def test_a_mapping_that_cannot_work_is_named(expression: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        mapping(expression)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["root", "", "no-such-user-here", "a\0b"])
def test_root_and_those_whom_the_machine_does_not_know_are_no_local_users(name: str) -> None:
    with pytest.raises(IdentityUnmapped):
        LocalUser.of_name(name)
