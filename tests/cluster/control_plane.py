"""A real control plane on loopback: etcd, kube-apiserver, controller manager and scheduler, and kubectl."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from authority import Authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Json = dict[str, Any]

_START_SECONDS = 180.0
_STOP_SECONDS = 30.0
_SERVICE_RANGE, _API_ADDRESS = "10.43.0.0/16", "10.43.0.1"
_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    _API_ADDRESS,
)
# Certificate and kubeconfig -> user, groups.
_USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("admin", ("system:masters",)),
    "controllers": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
}


class ControlPlane:
    """All of it, with its state in `folder`; every address is on loopback.

    `program` is `cluster_program`'s.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.folder = folder
        self._program = program
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        ports = _free_ports(5)
        self._etcd, self._etcd_peer, self.port, self._controllers, self._scheduler = ports
        self.server = f"https://127.0.0.1:{self.port}"
        self._make_files()

    def _make_files(self) -> None:
        self.authority = Authority(self.folder)
        self.authority.sign("api", "kube-apiserver", hosts=_SERVER_NAMES)
        self.authority.sign("kubelets", "kube-apiserver-kubelet-client", ("system:masters",))
        self.authority.sign("front-proxy", "front-proxy-client")
        for stem, (name, groups) in _USERS.items():
            self.add_user(stem, name, groups)
        self.authority.write_signing_keys("accounts")

    # Life

    def start(self) -> None:
        """Start everything; return when pods can be created."""
        self._start_etcd()
        self._start_api()
        self._start_controllers()
        self._start_scheduler()
        # Pods are refused before.
        self._wait(
            "its controllers",
            lambda: self.get("/api/v1/namespaces/default/serviceaccounts/default"),
        )

    def stop(self) -> None:
        """End everything; what it has said is in the folder's logs."""
        for _, process in reversed(self._processes):
            process.terminate()
        for _, process in reversed(self._processes):
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _start_etcd(self) -> None:
        client, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._etcd_peer}"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        self._wait("etcd", lambda: _fetch(f"{client}/health"))

    def _start_api(self) -> None:
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--tls-cert-file=api.crt",
            "--tls-private-key-file=api.key",
            "--client-ca-file=ca.crt",
            "--kubelet-certificate-authority=ca.crt",
            "--kubelet-client-certificate=kubelets.crt",
            "--kubelet-client-key=kubelets.key",
            "--kubelet-preferred-address-types=InternalIP,Hostname",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-signing-key-file=accounts.key",
            "--service-account-key-file=accounts.pub",
            "--api-audiences=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={_SERVICE_RANGE}",
            "--allow-privileged",
            "--endpoint-reconciler-type=none",
            "--requestheader-client-ca-file=ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--proxy-client-cert-file=front-proxy.crt",
            "--proxy-client-key-file=front-proxy.key",
        )
        self._wait("the API server", lambda: self.get("/readyz"))

    def _start_controllers(self) -> None:
        self._run(
            "kube-controller-manager",
            *_configs("controllers"),
            f"--secure-port={self._controllers}",
            "--root-ca-file=ca.crt",
            "--service-account-private-key-file=accounts.key",
            "--cluster-signing-cert-file=ca.crt",
            "--cluster-signing-key-file=ca.key",
            "--use-service-account-credentials",
            f"--flex-volume-plugin-dir={self.folder / 'flex'}",  # else it makes one in /usr
            "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
        )

    def _start_scheduler(self) -> None:
        self._run("kube-scheduler", *_configs("scheduler"), f"--secure-port={self._scheduler}")

    def _run(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [self._program, name, *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append((name, process))

    def _wait(self, what: str, ask: Callable[[], object]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            for name, process in self._processes:
                if process.poll() is not None:
                    raise AssertionError(
                        f"{name} ended with {process.returncode}:\n{self._log(name)}"
                    )
            try:
                ask()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{what} did not come up: {error}") from error
                time.sleep(0.1)
            else:
                return

    def _log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    # Users of it

    def add_user(self, stem: str, name: str, groups: tuple[str, ...]) -> Path:
        """Make a user's certificate; return the kubeconfig."""
        self.authority.sign(stem, name, groups)
        return self.authority.write_kubeconfig(stem, self.server)

    def add_node_user(self, name: str) -> str:
        """Make the certificate of a node's kubelet; return its stem, for `call`."""
        self.add_user(f"node-{name}", f"system:node:{name}", ("system:nodes",))
        return f"node-{name}"

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl as the administrator; return what it printed."""
        config = self.folder / "admin.kubeconfig"
        done = subprocess.run(
            [self._program, "kubectl", f"--kubeconfig={config}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, path: str) -> bytes:
        """Ask the API as the administrator. Raises OSError, also for any answer but success."""
        return _fetch(f"{self.server}{path}", self._context("admin"))

    def call(self, user: str, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Ask the API as a user; return status and answer. A PATCH is a merge patch."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            f"{self.server}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": "application/json"},
        )
        try:
            with _opener(self._context(user)).open(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def _context(self, user: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        context.load_cert_chain(self.folder / f"{user}.crt", self.folder / f"{user}.key")
        return context


def _configs(stem: str) -> list[str]:
    uses = ("", "authentication-", "authorization-")
    return [
        *(f"--{use}kubeconfig={stem}.kubeconfig" for use in uses),
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def _fetch(url: str, context: ssl.SSLContext | None = None) -> bytes:
    with _opener(context).open(url, timeout=10) as response:
        return bytes(response.read())


def _opener(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now. These servers can't be given a socket, or say which port they chose."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
