"""A real ledger: `holdfast dev` with servers of its own, on free ports, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from shutil import rmtree
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
STOP_S = 30


def binary() -> Path:
    """The ledger: `HOLDFAST_BIN`, else what cargo has built."""
    named = os.environ.get("HOLDFAST_BIN")
    built = [REPOSITORY / "target" / profile / "holdfast" for profile in ("release", "debug")]
    found = [path for path in ([Path(named)] if named else built) if path.is_file()]
    assert found, f"no ledger: build it, or name one in HOLDFAST_BIN (looked for {named or built})"
    return found[0]


class Stack:
    """What a client needs to know of a running ledger."""

    def __init__(self) -> None:
        # Postgres refuses to run as root, so its folder must be open to another user.
        self.data = Path(tempfile.mkdtemp(prefix="holdfast-py-"))
        self.data.chmod(0o755)
        self._log = (self.data / "log").open("w")
        self._process = subprocess.Popen(
            [binary(), "dev", "--data", self.data / "dev", "--http", "127.0.0.1:0", "--output", "json"],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready, f"the ledger did not start: {(self.data / 'log').read_text()[-2000:]}"
        self.ready: dict[str, Any] = json.loads(ready)
        self.nats: str = self.ready["nats"]["services"]["backend"]
        self.audience: str = self.ready["audience"]
        self.http: str = self.ready["http"]
        self.token = (self.data / "dev" / "internal-token").read_text().strip()

    def pause(self) -> None:
        """The ledger neither reads nor answers; the bus goes on."""
        self._process.send_signal(signal.SIGSTOP)
        # Each of its threads stops a little later; what is asked before that is still answered.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.resume()
        self._process.terminate()
        self._process.wait(STOP_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        rmtree(self.data, ignore_errors=True)
