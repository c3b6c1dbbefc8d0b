"""The service, asked with an endpoint's own token: whoever administers the endpoint on this machine may do that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.cli.endpoint_commands import network_of
from headrace.cli.errors import CommandError

if TYPE_CHECKING:
    from headrace.endpoint.directory import EndpointDirectory
    from headrace.sdk.client import Client


@contextlib.contextmanager
def own_service(directory: EndpointDirectory) -> Iterator[tuple[Client, UUID]]:
    """A client, and the endpoint's id. Raises `CommandError` where the endpoint was never started."""
    from headrace.sdk.client import Client
    from headrace.sdk.profile import Profile

    registration, token = directory.registration(), directory.token()
    if registration is None or token is None or registration.url is None:
        raise CommandError(f"the endpoint {directory.name} is not registered yet: the first start does it")
    profile = Profile(url=registration.url, token=token, network=network_of(directory.path.parents[1]))
    with Client(profile=profile) as client:
        try:
            yield client, registration.endpoint_id
        except ValueError as error:
            raise CommandError(str(error)) from error
