"""Run a function when GitHub, or whoever signs as GitHub does, calls a webhook.

Needs a service: `headrace up` on this machine, or HEADRACE_URL and HEADRACE_TOKEN.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from typing import Any

import httpx
from on_event import result_for

from headrace.sdk import Client


def changed_files(event: dict[str, Any]) -> dict[str, Any]:
    """What a push has changed."""
    files = sorted({file for commit in event["data"]["commits"] for file in commit["modified"]})
    return {"event": event["id"], "branch": event["data"]["ref"].rsplit("/", 1)[-1], "files": files}


def push(url: str, secret: str) -> dict[str, Any]:
    """What GitHub does when somebody has pushed; gives the answer. It knows the secret, and has no token."""
    body = json.dumps({"ref": "refs/heads/main", "commits": [{"modified": ["model.py", "data/may.csv"]}]}).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    document: dict[str, Any] = httpx.post(url, content=body, headers=headers).raise_for_status().json()
    return document


def main() -> None:
    with Client() as client:
        hook = client.create_hook({"name": "pushes", "kind": "github"})
        subscription = client.create_subscription(
            {
                "name": "changed files",
                "filter": {"exact": {"type": "com.github.push", "source": f"/hooks/{hook['hook_id']}"}},
                "function_id": client.register_function(changed_files),
            }
        )
        try:
            answer = push(hook["url"], hook["secret"])
            print(f"GitHub was told that it is stored: number {answer['sequence']}")
            result = result_for(client, answer["id"])
            print(f"on {result['branch']} somebody changed {', '.join(result['files'])}")
        finally:
            client.delete_subscription(subscription["subscription_id"])
            client.delete_hook(hook["hook_id"])


if __name__ == "__main__":
    main()
