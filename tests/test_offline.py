"""Nothing reaches the network while tests run, from this process or from one that it starts."""

import socket
import subprocess
import sys
import threading

import pytest

AWAY = "192.0.2.1"  # of the addresses for documentation, which lead nowhere
ATTEMPTS = [
    f"socket.create_connection(('{AWAY}', 80), timeout=5)",
    f"with socket.socket() as s: s.connect_ex(('{AWAY}', 80))",
    f"with socket.socket(type=socket.SOCK_DGRAM) as s: s.sendto(b'x', ('{AWAY}', 53))",
    "socket.getaddrinfo('example.org', 443)",
    "__import__('urllib.request').request.urlopen('http://example.org')",
]


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_to_leave_the_machine_is_refused(attempt: str) -> None:
    with pytest.raises(RuntimeError, match="tests stay on this machine"):
        exec(attempt, {"socket": socket})
    done = subprocess.run(
        [sys.executable, "-c", f"import socket\n{attempt}"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "tests stay on this machine" in done.stderr


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as accepted:
                accepted.sendall(b"here")

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(("localhost", server.getsockname()[1])) as client:
            assert client.recv(4) == b"here"
        thread.join()
