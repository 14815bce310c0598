"""A TCP proxy on this host, which is cut after some bytes: a connection lost without any rights."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_BLOCK = 1 << 16
_RETRY_SECONDS = 0.05


class Proxy:
    """Forward connections to a port of this host until `cut_after` bytes have passed, if set.

    A cut closes all connections and refuses new ones.
    """

    def __init__(self, port: int, *, cut_after: int) -> None:
        self._target = ("127.0.0.1", port)
        self._left = cut_after
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = threading.Event()
        self.was_cut = False

    def __enter__(self) -> Self:
        """Start to accept connections."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything."""
        self._close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with self._lock:
            self._sockets.append(near)
        while not self._closed.is_set():
            try:
                far = socket.create_connection(self._target)
                break
            except OSError:  # rank 0 does not listen yet
                self._closed.wait(_RETRY_SECONDS)
        else:
            return
        with self._lock:
            self._sockets.append(far)
        threading.Thread(target=self._forward, args=(far, near), daemon=True).start()
        self._forward(near, far)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # closed from either side
            while data := source.recv(_BLOCK):
                with self._lock:
                    self._left -= len(data)
                    cut = self._left < 0
                if cut:
                    self.was_cut = True
                    self._close()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        self._closed.set()
        with self._lock:
            for one in (self._listener, *self._sockets):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
