"""A sample provider made with the public toolkit for action providers, under uvicorn: one process, one event loop.

It does what the toolkit's own samples do: it remembers requests and actions in dicts, and every run has SUCCEEDED when
it is answered, without anything having run. So it shows what the toolkit itself costs. Tokens are introspected at a
stand-in for Globus Auth in the measuring process; the toolkit remembers the answer for 30 s.

    python -m benchmarks.systems.toolkit PORT      the sample; GLOBUS_SDK_SERVICE_URL_AUTH says where the stand-in is
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.providers import Door

_SCOPE = "https://auth.globus.org/scopes/00000000-0000-4000-8000-000000000001/action_all"
_IDENTITY = "00000000-0000-4000-8000-000000000002"
_TOKEN = "a-token-of-the-benchmark"  # noqa: S105  # a made-up one
_START_LIMIT_S = 30.0
_STOP_LIMIT_S = 10.0


class Toolkit:
    """The sample and the stand-in."""

    def __init__(self, work: Path) -> None:
        self._log = work / "toolkit.log"
        self._auth: ThreadingHTTPServer | None = None
        self._sample: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        self._auth = ThreadingHTTPServer(("127.0.0.1", 0), _Introspection)
        threading.Thread(target=self._auth.serve_forever, name="introspection", daemon=True).start()
        self._port = _free_port()
        environment = {**os.environ, "GLOBUS_SDK_SERVICE_URL_AUTH": f"http://127.0.0.1:{self._auth.server_port}/"}
        command = [sys.executable, "-m", "benchmarks.systems.toolkit", str(self._port)]
        with self._log.open("wb") as log:
            self._sample = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._wait_for_it()

    def provider(self) -> Door:
        """The sample."""
        return Door(url=f"http://127.0.0.1:{self._port}", path="/sample", token=_TOKEN, body={"input_string": "one"})

    def role(self, command: Sequence[str]) -> str:
        """There is only one."""
        return "service" if "benchmarks.systems.toolkit" in command else Path(command[0]).name

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        raise NotImplementedError("the sample runs no functions")

    def results(self, handles: Sequence[Any]) -> list[Any]:
        raise NotImplementedError("the sample runs no functions")

    def stop(self) -> None:
        if self._sample is not None:
            self._sample.terminate()
            try:
                self._sample.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._sample.kill()
                self._sample.wait()
        if self._auth is not None:
            self._auth.shutdown()
            self._auth.server_close()

    def _wait_for_it(self) -> None:
        assert self._sample is not None
        end = time.monotonic() + _START_LIMIT_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)
            try:
                connection.request("GET", "/sample/")
                assert connection.getresponse().status == 200
                return
            except OSError:
                if self._sample.poll() is not None or time.monotonic() > end:
                    words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise RuntimeError(f"the sample did not start: {' | '.join(words)}") from None
                time.sleep(0.02)
            finally:
                connection.close()


class _Introspection(BaseHTTPRequestHandler):
    """Finds every token active."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        document = {"active": True, "scope": _SCOPE, "sub": _IDENTITY, "identity_set": [_IDENTITY], "username": "ada"}
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""


def sample() -> Any:
    """The sample provider, a WSGI application."""
    from flask import Flask
    from globus_action_provider_tools import ActionProviderDescription, ActionStatus, ActionStatusValue
    from globus_action_provider_tools.authorization import authorize_action_access_or_404
    from globus_action_provider_tools.flask import ActionProviderBlueprint
    from globus_action_provider_tools.flask.exceptions import ActionConflict, ActionNotFound
    from globus_action_provider_tools.flask.helpers import assign_json_provider

    schema = {
        "type": "object",
        "properties": {"input_string": {"type": "string"}},
        "required": ["input_string"],
        "additionalProperties": False,
    }
    blueprint = ActionProviderBlueprint(
        name="sample",
        import_name=__name__,
        url_prefix="/sample",
        provider_description=ActionProviderDescription(
            globus_auth_scope=_SCOPE,
            title="sample",
            admin_contact="nobody@example.org",
            synchronous=True,
            input_schema=schema,
            log_supported=False,
        ),
    )
    requests: dict[str, tuple[Any, str]] = {}
    actions: dict[str, Any] = {}

    @blueprint.action_run  # type: ignore[untyped-decorator]  # the toolkit is not installed where types are checked
    def run(request: Any, auth: Any) -> Any:
        key = f"{auth.effective_identity}:{request.request_id}"
        if key in requests:
            earlier, action_id = requests[key]
            if earlier != request:
                raise ActionConflict(f"request {request.request_id} was made before, with other parameters")
            return actions[action_id], 200
        now = datetime.now(UTC).isoformat()
        action = ActionStatus(
            status=ActionStatusValue.SUCCEEDED,
            creator_id=str(auth.effective_identity),
            monitor_by=request.monitor_by,
            manage_by=request.manage_by,
            start_time=now,
            completion_time=now,
            release_after=request.release_after or "P30D",
            display_status="SUCCEEDED",
            details={"you_said": request.body["input_string"]},
        )
        requests[key], actions[action.action_id] = (request, action.action_id), action
        return action

    @blueprint.action_status  # type: ignore[untyped-decorator]  # likewise
    def status(action_id: str, auth: Any) -> Any:
        action = actions.get(action_id)
        if action is None:
            raise ActionNotFound(f"no action {action_id}")
        authorize_action_access_or_404(action, auth)
        return action

    @blueprint.action_cancel  # type: ignore[untyped-decorator]  # likewise
    def cancel(action_id: str, auth: Any) -> Any:
        return status(action_id, auth)

    @blueprint.action_release  # type: ignore[untyped-decorator]  # likewise
    def release(action_id: str, auth: Any) -> Any:
        return status(action_id, auth)

    app = Flask(__name__)
    assign_json_provider(app)
    app.config.update(CLIENT_ID="00000000-0000-4000-8000-000000000001", CLIENT_SECRET="made up")  # noqa: S106 - a made-up one
    app.register_blueprint(blueprint)
    return app


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    import uvicorn
    from a2wsgi import WSGIMiddleware

    application: Any = WSGIMiddleware(sample())
    uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
