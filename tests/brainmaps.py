"""A local server that speaks the protocol of Google's BrainMaps service, and of its token endpoint."""

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from dvid_dask.formats.images import encode_image

VOLUME = "772153499790:fib25"
ACCOUNT = "reader@fly.iam.example"
AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever the key's token_uri is
_TYPES = {"uint8": "UINT8", "float32": "FLOAT", "uint64": "UINT64"}


class BrainMaps:
    """The service.

    Attributes
    ----------
    scales : list of (array (z, y, x), pixel size (x, y, z))
    fault : str
        How it misbehaves for `faults` requests: a status to answer, "hang", "short", "long", "garbage" or "close".
    seen : list
        Bodies of POSTs.
    """

    def __init__(self, scales, folder):
        self.scales = scales
        self.fault, self.faults = "", 0
        self.seen, self.requests, self.tokens = [], 0, set()
        self.go = threading.Event()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                service.handle(self, None)

            def do_POST(self):
                service.handle(self, self.rfile.read(int(self.headers["Content-Length"])))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.keyfile = folder / "key.json"
        self.key = {
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "1",
            "private_key": pem,
            "token_uri": f"{self.url}/token",
            "brainmaps_url": f"{self.url}/v1",
        }
        self.keyfile.write_text(json.dumps(self.key))

    def close(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()

    # ------------------------------------------------------------------ answers

    def handle(self, request, body):
        if request.path == "/token":
            status, kind, data = self.token(body)
        elif request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            status, kind, data = 401, "application/json", b'{"error": "no token"}'
        else:
            self.requests += 1
            status, kind, data = self.answer(request.path, body)
        cut = data
        if request.path != "/token" and self.faults > 0:
            self.faults -= 1
            if self.fault == "hang":
                self.go.wait(60)
            elif self.fault == "short":
                cut, data = data[:-1], data[:-1]
            elif self.fault == "long":
                cut, data = data + b"x", data + b"x"
            elif self.fault == "garbage":
                cut = data = b"<html>"
            elif self.fault == "close":
                cut = data[: len(data) // 2]
            else:
                status, cut, data = int(self.fault), b"because", b"because"
        try:
            request.send_response(status)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(cut)
            if len(cut) < len(data):
                request.close_connection = True
        except OSError:
            pass

    def token(self, body):
        """A token for whoever signed the request with the account's key."""
        form = urllib.parse.parse_qs(body.decode())
        try:
            claims = jwt.decode(form["assertion"][0], certs=self._public, audience=AUDIENCE)
        except ValueError:
            return 400, "application/json", b'{"error": "invalid_grant"}'
        assert claims["iss"] == ACCOUNT
        assert claims["scope"] == "https://www.googleapis.com/auth/brainmaps"
        token = f"token-{len(self.tokens)}-{time.time_ns()}"
        self.tokens.add(token)
        return 200, "application/json", json.dumps({"access_token": token, "expires_in": 3600}).encode()

    def answer(self, path, body):
        if body is None and path == "/v1/volumes":
            return 200, "application/json", json.dumps({"volumeId": [VOLUME]}).encode()
        if body is None and path == f"/v1/volumes/{VOLUME}":
            return 200, "application/json", json.dumps({"geometry": [self.geometry(*s) for s in self.scales]}).encode()
        for kind, make in (("imagetile", self.tile), ("subvolume", self.subvolume)):
            if path == f"/v1/volumes/{VOLUME}/{kind}:binary" and body is not None:
                self.seen.append(json.loads(body))
                return make(self.seen[-1])
        return 404, "application/json", b'{"error": "no such volume"}'

    @staticmethod
    def geometry(voxels, pixel):
        x, y, z = (str(n) for n in reversed(voxels.shape[:3]))
        return {
            "volumeSize": {"x": x, "y": y, "z": z},
            "channelCount": "1",
            "channelType": _TYPES.get(voxels.dtype.name, voxels.dtype.name),
            "pixelSize": dict(zip("xyz", pixel, strict=True)),
        }

    def box(self, geometry):
        voxels = self.scales[geometry["scale"]][0]
        corner, size = ([int(v) for v in geometry[name].split(",")][::-1] for name in ("corner", "size"))
        if any(a < 0 or n < 1 or a + n > m for a, n, m in zip(corner, size, voxels.shape, strict=True)):
            return None
        return voxels[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))]

    def tile(self, asked):
        box = self.box(asked["imageSpec"]["geometry"])
        if box is None:
            return 400, "text/plain", b"outside"
        return self.image(np.squeeze(box, axis=box.shape.index(1)), asked["imageSpec"]["imageOptions"])

    def subvolume(self, asked):
        box = self.box(asked["geometry"])
        if box is None:
            return 400, "text/plain", b"outside"
        if asked["subvolumeFormat"] == "SINGLE_IMAGE":
            return self.image(box.reshape(-1, box.shape[2]), asked["imageOptions"])
        return 200, "application/octet-stream", box.tobytes()

    @staticmethod
    def image(pixels, options):
        format = {"PNG": "png", "JPEG": f"jpg:{options.get('jpegQuality', 90)}"}[options["imageFormat"]]
        data, kind = encode_image(pixels, format)
        return 200, kind, data
