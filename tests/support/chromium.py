"""A real browser, driven over its debugging pipe: no driver, no library, nothing listens on a port."""

import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser import CHROMIUM, FLAGS

_FLAGS = (*(flag for flag in FLAGS if not flag.startswith("--enable-logging")), "--remote-debugging-pipe")


class Page:
    """One page of a browser.

    Args:
        reading, writing: ends of the pipe.

    Attributes:
        faults: what the page logged as errors, and exceptions that it did not catch.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._buffer, self._last = reading, writing, b"", 0
        self._session: str | None = None
        self.faults: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._last += 1
        session = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": self._last, "method": method, "params": params, **session})
        os.write(self._writing, message.encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def open(self, url: str, *, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        """Open an address in a window of this size, and wait until the page has loaded."""
        self.resize(width, height, dark=dark)
        self.ask("Page.navigate", url=url)
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def resize(self, width: int, height: int, *, dark: bool) -> None:
        """Set the window's size and whether the reader prefers dark colours."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, a promise's once it is kept."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"{expression}: not within {seconds} s; {self.faults}"
            time.sleep(0.1)

    def screenshot(self) -> bytes:
        """Return a picture of the window, PNG."""
        return b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def _message(self) -> Any:
        while b"\0" not in self._buffer:
            part = os.read(self._reading, 1 << 16)
            assert part, "the browser is gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.faults.append(str(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """Start a browser with an empty profile; yield a page of it."""
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    # The browser reads descriptor 3 and writes 4: a shell puts the pipe's ends there.
    redirect = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    command = ["bash", "-c", redirect, str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}"]
    with subprocess.Popen(
        command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Page(reading, writing)
        finally:
            process.kill()
            os.close(writing)
            os.close(reading)
