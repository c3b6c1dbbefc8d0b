"""The file that says whom the action providers of a service are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.action_provider.provider_access import Access
from headrace.cli.errors import CommandError
from headrace.cli.provider_options import provider_settings
from headrace.endpoint.errors import ConfigInvalid

WHOLE = """
admin_contact: ops@example.org
longest_action: P7D
longest_release_after: PT12H
access:
  /actions/compute/v3:
    visible_to: all_authenticated_users
    runnable_by: [urn:headrace:group:lab, "urn:globus:groups:id:6a0d7b0e-1111-4222-8333-444455556666"]
    administered_by: [urn:headrace:user:ada]
  /actions/functions/{function_id}: {runnable_by: ["urn:headrace:group:lab"]}
"""


def test_everything_that_the_file_says_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(WHOLE)

    fields = provider_settings(None, home=tmp_path)

    assert fields["admin_contact"] == "ops@example.org"
    assert fields["longest_action_s"] == 7 * 86_400
    assert fields["longest_release_after_s"] == 12 * 3600
    assert fields["provider_access"] == {
        "/actions/compute/v3": Access(
            visible_to=("all_authenticated_users",),
            runnable_by=("urn:headrace:group:lab", "urn:globus:groups:id:6a0d7b0e-1111-4222-8333-444455556666"),
            administered_by=("urn:headrace:user:ada",),
        ),
        "/actions/functions/{function_id:uuid}": Access(runnable_by=("urn:headrace:group:lab",)),
    }


def test_without_the_file_nothing_is_changed_but_a_named_one_must_be_there(tmp_path: Path) -> None:
    assert provider_settings(None, home=tmp_path) == {}
    with pytest.raises(ConfigInvalid):
        provider_settings(tmp_path / "missing.yaml", home=tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("access: {/actions/copmute: {}}", "no provider /actions/copmute; there are /actions/compute"),
        ("access: {/actions/compute: {runnable_by: public}}", "all_authenticated_users"),
        ("access: {/actions/compute: {runnable_by: [me]}}", "runnable_by"),
        ("access: {/actions/compute: {visible_to: []}}", "visible_to"),
        ("longest_action: 7 days", "longest_action"),
        ("longest_action: P0D", "longest_action"),
        ("contact: me", "contact"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "providers.yaml").write_text(text)

    with pytest.raises((CommandError, ConfigInvalid)) as refused:
        provider_settings(None, home=tmp_path)

    assert says in str(refused.value)
