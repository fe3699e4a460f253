"""Objects as they are on disk: compressed, each by itself, against words that most of them have.

A release differs from the one before in a digest or a number, and a manifest from another in a few names.
So most of an object's text is in a dictionary that both sides know (RFC 1950, section 2.2, FDICT); the
first byte says which, for files outlive versions. Nothing refers to another row: a damaged page costs what
is in it and no more.
"""

from __future__ import annotations

import zlib

from limpet.errors import UnavailableError

# Never to be changed: what was packed with it could not be read any more. Another one gets another number.
# What is most common comes last (zlib, deflateSetDictionary).
_WORDS_1 = (
    b'{"apiVersion":"v1","binaryData":{},"data":{"kind":"Secret","stringData":{"type":"Opaque"'
    b'{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"","namespace":"default"},'
    b'"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"64Mi"}},'
    b'"storageClassName":"","volumeMode":"Filesystem"}}'
    b'{"apiVersion":"v1","kind":"Service","metadata":{"name":"","namespace":"default"},"spec":{"ports":'
    b'[{"name":"http","nodePort":30080,"port":80,"protocol":"TCP","targetPort":8080}],"selector":{"app":""'
    b'},"type":"ClusterIP","type":"NodePort","type":"LoadBalancer"}}'
    b'{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":""},"spec":'
    b'{"ingressClassName":"limpet","rules":[{"host":"","http":{"paths":[{"backend":{"service":{"name":"",'
    b'"port":{"number":80}}},"path":"/","pathType":"Prefix"}]}}]}}'
    b'{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","spec":{"egress":[{"ports":[{"port":443,'
    b'"protocol":"TCP"}],"to":[{"ipBlock":{"cidr":"10.0.0.0/8","except":[]}}]}],"podSelector":'
    b'{"matchLabels":{}},"policyTypes":["Egress"]}}'
    b'{"apiVersion":"batch/v1","kind":"Job","spec":{"backoffLimit":6,"completions":1,"parallelism":1,'
    b'"restartPolicy":"Never","restartPolicy":"OnFailure","restartPolicy":"Always"'
    b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"","namespace":"default"},"immutable":true'
    b'"emptyDir":{"medium":"Memory","sizeLimit":"64Mi"},"secret":{"items":[{"key":"","path":""}],'
    b'"secretName":""},"command":[],"args":["--'
    b'"initialDelaySeconds":5,"failureThreshold":3,"successThreshold":1,"timeoutSeconds":1,'
    b'"livenessProbe":{"exec":{"command":[""]}},"startupProbe":{"tcpSocket":{"port":'
    b'"imagePullPolicy":"IfNotPresent","imagePullSecrets":[{"name":""}],"securityContext":'
    b'{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"readOnlyRootFilesystem":true,'
    b'"runAsNonRoot":true},"limpet.dev/max-body":"8Mi","limpet.dev/deadline":"30s","limpet.dev/engine":"auto",'
    b'"limpet.dev/execution":"","limpet.dev/require":"","limpet.dev/trigger":"http","limpet.dev/workers":"1",'
    b'"limpet.dev/cost-limit":"","app.kubernetes.io/name":"","app.kubernetes.io/version":"1.0.0",'
    b'"app.kubernetes.io/part-of":"","app.kubernetes.io/managed-by":"","app.kubernetes.io/component":"",'
    b'"minReadySeconds":0,"paused":false,"progressDeadlineSeconds":600,"revisionHistoryLimit":10,'
    b'"strategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0},"type":"RollingUpdate"},"type":"Recreate"'
    b'{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":""},"name":"","namespace":"default"},"spec":'
    b'"image":"file:///","image":"https://","image":"oci://","image":"./app.wasm","image":"registry.example/'
    b'@sha256:"livenessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":10},'
    b'{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"annotations":{},"labels":{"app":""},"name":"",'
    b'"namespace":"default"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":""}},"template":'
    b'{"metadata":{"annotations":{"limpet.dev/egress":"https://","limpet.dev/idle-timeout":"60s",'
    b'"limpet.dev/listen":"127.0.0.1:0","limpet.dev/listen":"0.0.0.0:8080"},"labels":{"app":""}},"spec":'
    b'{"containers":[{"env":[{"name":"LOG_LEVEL","value":"info"},{"name":"","valueFrom":{"secretKeyRef":'
    b'{"key":"","name":""}}},{"name":"","valueFrom":{"configMapKeyRef":{"key":"","name":""}}},{"name":"",'
    b'"value":""}],"image":".wasm","name":"","ports":[{"containerPort":8080,"name":"http","protocol":"TCP"}],'
    b'"readinessProbe":{"httpGet":{"path":"/","port":8080},"periodSeconds":5},"resources":{"limits":{"cpu":'
    b'"500m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"32Mi"}},"volumeMounts":[{"mountPath":"/data",'
    b'"name":"data","readOnly":true}]}],"terminationGracePeriodSeconds":30,"volumes":[{"configMap":{"name":""},'
    b'"name":"config"},{"name":"data","persistentVolumeClaim":{"claimName":"data"}}]}}}}'
)
_DICTIONARIES = {1: _WORDS_1}
_NEWEST = 1
_LEVEL = 9
# Far more than an object may have: a damaged row can't ask for all memory.
_MAX_BYTES = 64 << 20


class PackedError(UnavailableError):
    """A row of the state that this version of Limpet can't read."""

    reason = "StoreUnavailable"


def pack(text: str) -> bytes:
    """Return an object's text as it is stored."""
    packer = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS, zdict=_DICTIONARIES[_NEWEST])
    return bytes((_NEWEST,)) + packer.compress(text.encode()) + packer.flush()


def unpack(packed: object) -> str:
    """Return the text of what `pack` has made. Raises `PackedError`."""
    if not isinstance(packed, bytes) or not packed or packed[0] not in _DICTIONARIES:
        raise PackedError(
            "an object in the state was packed by another version of Limpet: run that one"
        )
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARIES[packed[0]])
    try:
        text = unpacker.decompress(packed[1:], _MAX_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise PackedError(f"an object in the state can't be unpacked: {error}") from error
    if not unpacker.eof:
        raise PackedError("an object in the state ends early, or is too large")
    return text
