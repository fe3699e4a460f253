"""A node as docs/api.md describes it, in memory, on a real Unix socket: the remote side, faked."""

from __future__ import annotations

import copy
import hashlib
import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

CREATED = "2026-01-02T03:04:05Z"
NOW = "2026-01-02T03:07:17Z"
DIGEST = "sha256:" + "ab" * 32
APPS = ("Deployment", "Pod", "Job")


def make_app(name="hello", **changes):
    """An AppStatus; `changes` replace its fields."""
    app = {
        "kind": "Deployment",
        "namespace": "default",
        "name": name,
        "generation": 1,
        "created_at": CREATED,
        "phase": "Running",
        "reason": None,
        "message": None,
        "desired": 1,
        "ready": 1,
        "restarts": 0,
        "trigger": "http",
        "engine": "wasmtime 50.0.1",
        "image": f"./{name}.wasm",
        "digest": DIGEST,
        "endpoints": ["127.0.0.1:8080"],
        "limits": {"cpu_cores": 0.5, "memory_bytes": 64 << 20, "pids": 64, "not_enforced": {}},
        "missing_walls": [],
        "missing_walls_why": "",
        "usage": {
            "cpu_cores": 0.012,
            "cpu_seconds": 1.2,
            "pss_bytes": 1_500_000,
            "uss_bytes": 1_200_000,
            "memory_bytes": 2_000_000,
            "memory_peak_bytes": 3 << 20,
            "throttled_share": 0.05,
            "throttled_seconds": 0.75,
        },
        "requests": {
            "total": 10,
            "failed": 0,
            "in_flight": 0,
            "queued": 0,
            "latency_micros": {"p50": 80, "p90": 100, "p99": 1250},
        },
        "cold_start_milliseconds": {"count": 3, "last": 3.1, "p50": 3.0},
        "requires": [],
        "egress": ["api.example.com: 443/tcp", "10.0.0.0/8 except 10.1.0.0/16: 53/udp"],
        "volumes": [
            {
                "kind": "PersistentVolumeClaim",
                "source": "readings",
                "path": "/data",
                "read_only": False,
                "usage": {
                    "size_bytes": 200 << 20,
                    "used_bytes": 12 << 20,
                    "available_bytes": 188 << 20,
                },
            }
        ],
        "workers": [make_worker(f"{name}-0")],
    }
    return app | changes


def make_rollout(**changes):
    """How the newest release stands; `changes` replace its fields."""
    rollout = {
        "release": 4,
        "in_force": 4,
        "previous": 3,
        "status": "complete",
        "message": "",
        "is_paused": False,
        "updated": 1,
        "available": 1,
        "old": 0,
    }
    return rollout | changes


def make_release(number, **changes):
    release = {
        "release": number,
        "created_at": CREATED,
        "status": "complete",
        "is_in_force": False,
        "cause": "",
        "digest": DIGEST,
        "message": "",
        "decided_at": CREATED,
    }
    return release | changes


def make_worker(name="hello-0", **changes):
    worker = {
        "name": name,
        "pid": 123,
        "state": "Ready",
        "restarts": 0,
        "started_at": CREATED,
        "retry_seconds": None,
        "last_exit": None,
    }
    return worker | changes


def make_exit(**changes):
    last = {
        "reason": "Signal",
        "message": "killed by SIGKILL",
        "exit_code": None,
        "signal": "SIGKILL",
        "finished_at": CREATED,
    }
    return last | changes


def make_job(name="report", **changes):
    """A Job that succeeded."""
    job = make_app(
        name,
        kind="Job",
        trigger="command",
        phase="Succeeded",
        reason="Completed",
        message="",
        is_final=True,
        ready=0,
        endpoints=[],
        usage=None,
        requests=None,
        cold_start_milliseconds=None,
        volumes=[],
        workers=[
            make_worker(
                f"{name}-0",
                pid=None,
                state="Completed",
                last_exit=make_exit(reason="Exited", message="", exit_code=0, signal=None),
            )
        ],
    )
    return job | changes


def make_event(**changes):
    event = {
        "time": CREATED,
        "type": "Normal",
        "reason": "Started",
        "kind": "Deployment",
        "namespace": "default",
        "name": "hello",
        "message": "worker hello-0 ready in 2.9 ms",
        "count": 1,
    }
    return event | changes


def make_object(kind, name, spec=None, *, namespace="default", **fields):
    """An Object as the API answers it."""
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}
    if spec is not None:
        manifest["spec"] = spec
    return {
        "kind": kind,
        "namespace": namespace,
        "name": name,
        "created_at": CREATED,
        "generation": 1,
        "object": manifest,
    }


def make_record(line, *, stream="stdout", worker="hello-0"):
    return {"time": "2026-01-02T03:04:05.123456Z", "stream": stream, "worker": worker, "line": line}


NODE = {
    "name": "rock",
    "version": "0.1.0",
    "started_at": CREATED,
    "data_directory": "/var/lib/limpet",
    "engine": "wasmtime 50.0.1",
    "python": "3.11.7",
    "machine": "x86_64",
    "cpus": 2,
    "memory_bytes": 2 << 30,
    "apps": 3,
    "workers": 2,
    "facilities": {
        "cgroup": True,
        "landlock": True,
        "seccomp": True,
        "namespaces": True,
        "user": True,
        "volumes": None,
        "encryption": None,
    },
    "not_enforced": {},
    "missing_walls": [],
    "missing_walls_why": "",
    "conditions": [
        {
            "type": "DiskPressure",
            "status": "True",
            "reason": "KubeletHasDiskPressure",
            "message": "90Mi of the disk are free, the node keeps 128Mi; what may go now is "
            "gone: delete apps or volumes, or free space on it",
            "since": CREATED,
        },
        {
            "type": "MemoryPressure",
            "status": "False",
            "reason": "KubeletHasSufficientMemory",
            "message": "900Mi of memory are available, the node acts below 48Mi",
            "since": CREATED,
        },
    ],
    "processes": [
        {"name": "launcher", "pid": 1, "pss_bytes": 6 << 20, "cpu_seconds": 0.1, "restarts": 0},
        {"name": "agent", "pid": 2, "pss_bytes": 9 << 20, "cpu_seconds": 2.5, "restarts": 0},
        {"name": "zygote", "pid": 3, "pss_bytes": 4 << 20, "cpu_seconds": 0.4, "restarts": 1},
    ],
}


KEYS = {
    "source": "file",
    "where": "/etc/limpet/node.key",
    "cipher": "chacha20-poly1305",
    "generation": 1,
    "created_at": CREATED,
    "generations": [{"generation": 1, "created_at": CREATED}],
    "protects_against": ["a lost disk"],
    "does_not_protect_against": ["root"],
}
UPGRADE = {
    "version": "0.1.0",
    "prefix": "/opt/limpet",
    "is_undecided": False,
    "trial_seconds": 0.01,
    "last": None,
}
# What a node of an ordinary user says of each app and of itself.
WITHOUT_ROOT = {
    "missing_walls": ["namespaces", "user"],
    "missing_walls_why": "the node does not run as root",
}
NO_LIMITS = dict.fromkeys(
    ("cpu", "memory", "pids"), "no control groups: /sys/fs/cgroup can't be written: run as root"
)


class FakeNode:
    """What the node knows, for tests to set, and `requests`, what it was asked."""

    def __init__(self, socket_path):
        self.socket_path = socket_path
        self.node = copy.deepcopy(NODE)
        self.apps = {}
        self.objects = {}
        self.events = []
        self.logs = {}
        self.modules = {}
        self.compiled = {}
        self.trusted = None  # the fingerprint of the key that signed bundles are found to have
        self.warnings = []
        self.releases = {}
        self.rollout_calls = []
        self.rollout_answer = {}
        self.upgrade = copy.deepcopy(UPGRADE)
        self.on_try = lambda upgrade, version: None  # may change what is told of upgrades
        self.failures = {}  # (method, path) -> (status, headers, body)
        self.requests = []
        self.on_apply = lambda app: app  # the status that an applied app gets
        self.on_get_app = lambda app: None  # may change the app, or the world
        self.keeps_log_open = lambda app: False
        self._server = None

    def add(self, *apps):
        for app in apps:
            self.apps[app["namespace"], app["name"]] = app

    def store(self, *objects):
        for item in objects:
            self.objects[item["kind"], item["namespace"], item["name"]] = item

    def asked(self, method):
        return [path for verb, path in self.requests if verb == method]

    def start(self):
        self._server = _Server(str(self.socket_path), _Handler)
        self._server.fake = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def stop(self):
        self.keeps_log_open = lambda app: False
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self.socket_path.unlink(missing_ok=True)

    def apply(self, items, *, dry_run):
        results = []
        for item in items:
            manifest = item["object"]
            metadata = manifest["metadata"]
            namespace = metadata.get("namespace", "default")
            key = (manifest["kind"], namespace, metadata["name"])
            known = self.objects.get(key)
            action = "created" if known is None else "configured"
            if known is not None and known["object"] == manifest:
                action = "unchanged"
            results.append(
                dict(zip(("kind", "namespace", "name"), key, strict=True))
                | {"action": action, "warnings": self.warnings}
            )
            if not dry_run and action != "unchanged":
                self._keep(key, manifest, item, known)
        return {"results": results}

    def _keep(self, key, manifest, item, known):
        kind, namespace, name = key
        stored = make_object(kind, name, namespace=namespace)
        stored["object"] = manifest
        stored["generation"] = 1 if known is None else known["generation"] + 1
        self.objects[key] = stored
        if kind in APPS:
            app = make_app(name) if kind == "Deployment" else make_job(name, kind=kind)
            app |= {"namespace": namespace, "generation": stored["generation"]}
            self.add(self.on_apply(app | {"digest": item.get("digest")}))


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    allow_reuse_address = True
    fake = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def fake(self):
        return self.server.fake

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - the names that are called

    def _answer(self):
        self.close_connection = True
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")][1:]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fake.requests.append((self.command, self.path))
        failure = self.fake.failures.get((self.command, url.path))
        if failure is not None:
            self._send(failure[0], failure[2], headers=failure[1])
            return
        try:
            handle = getattr(self, f"_{self.command.lower()}_{parts[0]}")
            answer = handle(parts[1:], query, body)
        except KeyError as error:
            self._send_error(404, "NotFound", f"{error.args[0]} does not exist")
            return
        if answer is not None:
            status, value = answer
            self._send(status, value)

    def _get_node(self, parts, query, body):
        return 200, self.fake.node

    def _get_keys(self, parts, query, body):
        return 200, KEYS

    def _get_upgrade(self, parts, query, body):
        return 200, self.fake.upgrade

    def _post_upgrade(self, parts, query, body):
        self.fake.on_try(self.fake.upgrade, json.loads(body)["version"])
        return 202, self.fake.upgrade

    def _head_modules(self, parts, query, body):
        if parts[0] not in self.fake.modules:
            raise KeyError(f"module {parts[0]}")
        return 200, {}

    def _put_modules(self, parts, query, body):
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if digest != parts[0]:
            self._send_error(400, "Invalid", "the digest does not match")
            return None
        self.fake.modules[digest] = body
        return 201, {}

    def _get_modules(self, parts, query, body):
        self._send(200, self.fake.modules[parts[0]])

    def _post_modules(self, parts, query, body):
        self.fake.modules[parts[0]]
        name = f"{parts[0][7:]}-wasmtime-50.0.1-r4096g32-0a1b2c3d.cwasm"
        return 200, {"name": name, "imports": [], "exports": ["_start"], "memory_bytes": 65536}

    def _get_compiled(self, parts, query, body):
        self._send(200, b"machine code")

    def _put_compiled(self, parts, query, body):
        self.fake.compiled[parts[0]] = body
        return 201, {}

    def _post_bundles(self, parts, query, body):
        asked = json.loads(body)
        signer = self.fake.trusted if asked["signature"] else None
        layers = json.loads(asked["manifest"])["layers"]
        codes = [each["digest"] for each in layers if "compiled" in each["mediaType"]]
        return 200, {"signed_by": signer, "wanted": codes if signer else []}

    def _post_apply(self, parts, query, body):
        asked = json.loads(body)
        return 200, self.fake.apply(asked["objects"], dry_run=asked["dry_run"])

    def _get_objects(self, parts, query, body):
        found = [
            item
            for item in self.fake.objects.values()
            if all(item[key] == value for key, value in query.items())
        ]
        return 200, {"items": found}

    def _delete_objects(self, parts, query, body):
        key = tuple(parts)
        if key not in self.fake.objects and tuple(parts[1:]) not in self.fake.apps:
            raise KeyError(f"{parts[0].lower()} {parts[1]}/{parts[2]}")
        self.fake.objects.pop(key, None)
        if parts[0] in APPS:
            self.fake.apps.pop(tuple(parts[1:]), None)
        return 200, {"deleted": True, "warnings": self.fake.warnings}

    def _get_apps(self, parts, query, body):
        if not parts:
            wanted = query.get("namespace")
            apps = [app for key, app in self.fake.apps.items() if wanted in (None, key[0])]
            return 200, {"items": apps}
        key = (parts[0], parts[1])
        if key not in self.fake.apps:
            raise KeyError(f"app {parts[0]}/{parts[1]}")
        if parts[2:3] == ["releases"]:
            found = self.fake.releases.get(parts[1], [])
            if not parts[3:]:
                return 200, {"items": found}
            return 200, next(one for one in found if str(one["release"]) == parts[3])
        if parts[2:] == ["logs"]:
            self._stream_log(key, query)
            return None
        changed = self.fake.on_get_app(self.fake.apps[key])
        if changed is not None:
            self.fake.apps[key] = changed
        return 200, self.fake.apps[key]

    def _post_apps(self, parts, query, body):
        self.fake.rollout_calls.append((parts[1], json.loads(body)))
        return 200, self.fake.rollout_answer

    def _get_events(self, parts, query, body):
        wanted = {key: query[key] for key in ("namespace", "name") if key in query}
        found = [
            event
            for event in self.fake.events
            if all(event[key] == value for key, value in wanted.items())
        ]
        return 200, {"items": found[-int(query.get("limit", 100)) :]}

    def _stream_log(self, key, query):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        is_json = query.get("format") == "json"
        while True:
            records = self.fake.logs.get(key, [])
            if sent == 0 and "tail" in query:
                sent = max(len(records) - int(query["tail"]), 0)
            for record in records[sent:]:
                line = json.dumps(record) if is_json else record["line"]
                self._chunk(line.encode("utf-8", "surrogateescape") + b"\n")
            sent = len(records)
            if not query.get("follow") or not self.fake.keeps_log_open(self.fake.apps.get(key)):
                break
            time.sleep(0.01)
        self._chunk(b"")

    def _chunk(self, data):
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        except OSError:
            self.fake.keeps_log_open = lambda app: False

    def _send_error(self, status, reason, message, **more):
        self._send(status, {"error": {"reason": reason, "message": message, **more}})

    def _send(self, status, value, *, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
