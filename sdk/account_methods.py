"""The methods of `Client` about users, groups and tokens."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.sdk.documents import Document, given, items, segment
from headrace.sdk.http import Http


class AccountMethods:
    """What a client says of who may do what; whoever inherits it has `_http`."""

    _http: Http

    def whoami(self) -> Document:
        """Who the token's holder is: `principal`, `groups`, `admin`, `token_id`."""
        return self._http.document("GET", "whoami")

    def create_user(
        self, name: str, *, groups: Sequence[str] = (), admin: bool = False, again: bool = False
    ) -> Document:
        """Add a user; gives its `principal`. Only an administrator may.

        The name of a user who was removed is refused, unless `again` says that this is the same person.
        """
        body = {"name": name, "groups": list(groups), "admin": admin, **({"again": True} if again else {})}
        return self._http.document("POST", "users", body=body)

    def list_users(self) -> list[Document]:
        """All users. Only an administrator may ask."""
        return items(self._http.request("GET", "users"), "users")

    def delete_user(self, name: str) -> None:
        """Remove a user, with tokens, endpoints, subscriptions and queued tasks. Only an administrator may."""
        self._http.request("DELETE", f"users/{segment(name, 'name')}")

    def list_groups(self) -> list[Document]:
        """Groups and their `members`: one's own or, for an administrator, all."""
        return items(self._http.request("GET", "groups"), "groups")

    def add_to_group(self, group: str, user: str) -> None:
        """Put a user into a group (`lab`, or a URN), which is made so. Only an administrator may."""
        self._http.request("PUT", f"groups/{segment(group, 'group')}/members/{segment(user, 'user')}")

    def remove_from_group(self, group: str, user: str) -> None:
        """Take a user out of a group; sessions that needed it end. Only an administrator may."""
        self._http.request("DELETE", f"groups/{segment(group, 'group')}/members/{segment(user, 'user')}")

    def create_token(
        self,
        user: str | None = None,
        *,
        label: str | None = None,
        expires_in_s: float | None = None,
        publishes: str | None = None,
    ) -> Document:
        """Make a token, for oneself or (as an administrator) for a user; `token` in the answer is shown only now.

        publishes: it may do nothing but publish events whose source begins with this; empty for any source.
        """
        body = given(user=user, label=label, expires_in_s=expires_in_s, publishes=publishes)
        return self._http.document("POST", "tokens", body=body)

    def list_tokens(self, user: str | None = None) -> list[Document]:
        """One's own tokens, without the secrets; an administrator may ask for a user's, or for all with `*`."""
        return items(self._http.request("GET", "tokens", query={"user": user}), "tokens")

    def revoke_token(self, token_id: str) -> None:
        """Withdraw a token: it, and the sessions opened with it, end within seconds."""
        self._http.request("DELETE", f"tokens/{segment(token_id, 'token_id')}")
