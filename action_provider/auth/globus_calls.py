"""What is asked of Globus Auth and Globus Groups, with their own library. Every call blocks: it belongs on a thread.

The library is imported when the calls are made ready, so that nobody needs it who does not sign in with Globus.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from headrace.action_provider.auth.settings import GlobusSettings
from headrace.action_provider.errors import ConsentRequired, ServiceUnusable, Unavailable
from headrace.schemas import HeadraceError

if TYPE_CHECKING:
    import globus_sdk

logger = logging.getLogger(__name__)

GROUPS_SCOPE: Final = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"
_GROUPS_SERVER: Final = "groups.api.globus.org"
_INCLUDE: Final = "identity_set,identity_set_detail,session_info"
_RETRIES: Final = 1
_CONSENTS: Final = frozenset({"dependent_consent_required", "consent_required", "ConsentRequired"})


class CredentialsRefused(HeadraceError):
    """Raised when Globus Auth does not take this service's own id and secret; it does not leave this folder."""

    code = "CredentialsRefused"


class TokenGone(HeadraceError):
    """Raised when Globus does not take a token (any more); it does not leave this folder."""

    code = "TokenGone"


class GlobusCalls:
    """The calls. Any number of threads may use it; each has clients of its own. Raises `ServiceUnusable` where the
    library is missing."""

    def __init__(self, settings: GlobusSettings) -> None:
        try:
            import globus_sdk as sdk
        except ImportError:
            raise ServiceUnusable(
                "--auth globus needs the package globus-sdk; run `pip install 'headrace[globus]'`"
            ) from None
        self._sdk = sdk
        self._settings = settings
        self._of_thread = threading.local()

    def introspect(self, bearer: str) -> dict[str, Any]:
        """What Globus Auth says of a token. Raises `CredentialsRefused` and `Unavailable`."""
        with self._translated():
            return dict(self._auth.oauth2_token_introspect(bearer, include=_INCLUDE).data)

    def satisfies(self, bearer: str, policy: str) -> bool:
        """Whether the token's session satisfies a policy of Globus Auth. Raises `Unavailable`."""
        with self._translated():
            body = {"token": bearer, "authentication_policies": policy, "include": "session_info"}
            answer = self._auth.post("/v2/oauth2/token/introspect", data=body, encoding="form").data
        evaluations = answer.get("policy_evaluations") if answer.get("active") is True else None
        said = evaluations.get(policy) if isinstance(evaluations, dict) else None
        return isinstance(said, dict) and said.get("evaluation") is True

    def groups_token(self, bearer: str) -> tuple[str, float]:
        """A token for Globus Groups in the place of the caller's, and for how many seconds it is good.

        Raises `ConsentRequired`, `TokenGone` and `Unavailable`.
        """
        with self._translated():
            tokens = self._auth.oauth2_get_dependent_tokens(bearer).by_resource_server
        of_groups = tokens.get(_GROUPS_SERVER)
        if of_groups is None:
            raise self._consent_required()
        return str(of_groups["access_token"]), float(of_groups["expires_at_seconds"])

    def groups(self, groups_token: str) -> list[str]:
        """The ids of the groups of whoever holds a token of Globus Groups. Raises `TokenGone` and `Unavailable`."""
        with self._translated():
            client = self._sdk.GroupsClient(
                authorizer=self._sdk.AccessTokenAuthorizer(groups_token),
                transport=self._transport(),
                retry_config=self._retries(),
            )
            return [str(group["id"]) for group in client.get_my_groups(statuses="active") if "id" in group]

    @property
    def _auth(self) -> globus_sdk.ConfidentialAppAuthClient:
        client: globus_sdk.ConfidentialAppAuthClient | None = getattr(self._of_thread, "auth", None)
        if client is None:
            client = self._of_thread.auth = self._sdk.ConfidentialAppAuthClient(
                self._settings.client_id,
                self._settings.client_secret,
                transport=self._transport(),
                retry_config=self._retries(),
            )
        return client

    def _transport(self) -> globus_sdk.transport.RequestsTransport:
        return self._sdk.transport.RequestsTransport(http_timeout=self._settings.try_s)

    def _retries(self) -> globus_sdk.transport.RetryConfig:
        return self._sdk.transport.RetryConfig(max_retries=_RETRIES, max_sleep=0.5)

    def _consent_required(self) -> ConsentRequired:
        return ConsentRequired(
            "your groups at Globus decide this, and you have not agreed to show them to this service",
            required_scope=f"{self._settings.needed_scope}[{GROUPS_SCOPE}]",
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The one door of the library's errors."""
        try:
            yield
        except self._sdk.GlobusAPIError as error:
            raise self._meaning(error) from error
        except (self._sdk.GlobusError, OSError) as error:
            logger.warning("Globus does not answer: %s", type(error).__name__, extra={"action": "globus_away"})
            raise Unavailable(
                "Globus, which knows this token, does not answer now; try again", retry_after_s=5
            ) from error

    def _meaning(self, error: globus_sdk.GlobusAPIError) -> Exception:
        said = _said(error)
        if said in _CONSENTS:
            return self._consent_required()
        if said == "invalid_grant":
            return TokenGone("the token is not taken")
        if said in ("invalid_client", "unauthorized_client"):
            logger.error(
                "Globus Auth does not take this service's client id and secret: %s.",
                said,
                extra={"action": "globus_credentials_refused"},
            )
            return CredentialsRefused("the client id and secret of this service are not taken")
        if error.http_status in (401, 403):
            return TokenGone("the token is not taken")
        logger.warning(
            "Globus answered %s %s.",
            error.http_status,
            said,
            extra={"action": "globus_away", "status": error.http_status},
        )
        return Unavailable(
            "Globus, which knows this token, cannot answer now; try again", retry_after_s=_retry_after_s(error)
        )


def _said(error: globus_sdk.GlobusAPIError) -> str:
    document = error.raw_json
    said = document.get("error") or document.get("code") if isinstance(document, dict) else None
    return str(said or error.code)[:80]


def _retry_after_s(error: globus_sdk.GlobusAPIError) -> int:
    try:
        return max(1, min(300, int(error.headers.get("Retry-After", "5"))))
    except ValueError:
        return 5
