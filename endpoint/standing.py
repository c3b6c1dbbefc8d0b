"""An endpoint as its service knows it: registered, told what `config.yaml` says, and that it lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any
from uuid import UUID

from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.errors import EndpointError, RegistrationRefused, ServiceAway
from headrace.endpoint.load import machine_load
from headrace.endpoint.service_client import ServiceClient
from headrace.endpoint.signs import Pools, Signs, is_quiet

logger = logging.getLogger(__name__)


class Standing:
    """What a manager says to the service. `token` is the owner's: needed to register, and to tell of `config.yaml`."""

    def __init__(self, directory: EndpointDirectory, service: ServiceClient, *, token: str | None) -> None:
        self._directory = directory
        self._service = service
        self._token = token
        self._manager = directory.manager
        self._is_lost = False

    async def registered(self, config: EndpointConfig) -> UUID:
        """The endpoint's id, with what `config.yaml` says known to the service where that is possible now.

        Raises `EndpointError` without a token where one is needed, `RegistrationRefused`, and `ServiceAway` where the
        endpoint was never registered.
        """
        stored, token = self._directory.registration(), self._token
        if stored is not None and self._directory.token() is not None:
            await self.tell_config(stored.endpoint_id, config)
            if stored.url != self._service.url:
                self._directory.keep_registration(stored.endpoint_id, None, self._service.url)
            return stored.endpoint_id
        if token is None:
            raise EndpointError(
                f"the endpoint {self._directory.name!r} is not registered yet, which needs a token of yours: "
                f"run `headrace login --url {self._service.url}`, or give --url and --token-file"
            )
        endpoint_id = stored.endpoint_id if stored else uuid.uuid4()
        # Kept first: if we die before the service's answer is kept, the next start registers the same endpoint again.
        self._directory.keep_registration(endpoint_id, None, self._service.url)
        await self._register(token, endpoint_id, config)
        return endpoint_id

    async def tell_config(self, endpoint_id: UUID, config: EndpointConfig) -> None:
        """Tell the service what `config.yaml` says, where we may. Raises `RegistrationRefused`."""
        if self._token is not None:
            await self._change(self._token, endpoint_id, config)
            return
        logger.warning(
            "Without the owner's token the service is not told of public, shared_with, allowed_functions and others in"
            " config.yaml: what it was told last stays in force. Start once with --token-file, or log in.",
            extra={"action": "config_not_told", "endpoint_id": str(endpoint_id)},
        )

    async def tell_presence(
        self, endpoint_id: UUID, pools: Callable[[], Pools], *, is_heard: Callable[[], bool], every_s: float
    ) -> None:
        """Say every few seconds that the endpoint lives, and rarely while nothing happens.

        A service that is away is told of once; tasks go on.
        """
        signs = Signs(every_s)
        while True:
            look_again = time.monotonic() + every_s
            known, heard = pools(), is_heard()
            if signs.is_due(known, is_heard=heard):
                await self._tell_once(endpoint_id, known, signs, is_heard=heard)
            await asyncio.sleep(max(0.0, look_again - time.monotonic()))

    async def end_presence(self, endpoint_id: UUID) -> None:
        """Say that it lives no more, unless the service is away."""
        if self._is_lost:
            return
        with contextlib.suppress(EndpointError, TimeoutError):
            async with asyncio.timeout(1.0):
                token = self._directory.token() or ""
                await asyncio.to_thread(self._service.end_presence, token, endpoint_id, self._manager)

    async def _register(self, token: str, endpoint_id: UUID, config: EndpointConfig) -> None:
        own_token = await asyncio.to_thread(self._service.register, token, endpoint_id, self._described(config))
        self._directory.keep_registration(endpoint_id, own_token, self._service.url)
        logger.info(
            "Registered the endpoint %s as %s at %s.",
            self._directory.name,
            endpoint_id,
            self._service.url,
            extra={"action": "endpoint_registered", "endpoint_id": str(endpoint_id)},
        )

    async def _change(self, token: str, endpoint_id: UUID, config: EndpointConfig) -> None:
        try:
            await asyncio.to_thread(self._service.change, token, endpoint_id, self._described(config))
        except ServiceAway as error:
            logger.warning(
                "%s; going on with what it knew of this endpoint before.", error, extra={"action": "service_lost"}
            )
            self._is_lost = True
        except RegistrationRefused as error:
            if error.status != 404:
                raise
            # The service knows nothing of it: deleted there, or its store is a new one.
            await self._register(token, endpoint_id, config)

    def _described(self, config: EndpointConfig) -> dict[str, Any]:
        allowed = config.allowed_functions
        return {
            "name": config.display_name or self._directory.name,
            "public": config.public,
            "shared_with": list(config.shared_with),
            "allowed_functions": None if allowed is None else [str(function) for function in allowed],
            "allowed_function_owners": None
            if config.allowed_function_owners is None
            else list(config.allowed_function_owners),
            "queue_limits": dict(config.queue_limits),
            "keep_shares": True,
            "authentication_policy": config.authentication_policy,
            "per_user": config.identity_mapping_config_path is not None,
        }

    async def _tell_once(self, endpoint_id: UUID, pools: Pools, signs: Signs, *, is_heard: bool) -> None:
        body = {
            "manager": self._manager,
            "pools": pools,
            "load": machine_load(self._directory.path),
            "quiet": is_heard and is_quiet(pools),
        }
        try:
            token = self._directory.token() or ""
            next_in_s = await asyncio.to_thread(self._service.tell_presence, token, endpoint_id, body)
        except (ServiceAway, RegistrationRefused) as error:
            signs.failed()
            self._note_lost(error)
        else:
            signs.given(pools, next_in_s)
            self._note_back()

    def _note_lost(self, error: EndpointError) -> None:
        if not self._is_lost:
            self._is_lost = True
            logger.warning("%s; trying for ever, tasks go on.", error, extra={"action": "service_lost"})

    def _note_back(self) -> None:
        if self._is_lost:
            self._is_lost = False
            logger.info("The service at %s is back.", self._service.url, extra={"action": "service_back"})
