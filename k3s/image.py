#!/usr/bin/env python3
"""Writes an OCI image for several processors, with Python's own library alone: no Docker, no daemon, no base image.

    k3s/image.py OUT.tar NAME:TAG PROGRAM ARCHITECTURE=FILE [ARCHITECTURE=FILE ...]
    k3s/image.py isobar-proxy.tar isobar-proxy:0.1.0 isobar-proxy amd64=… arm64=… arm/v7=…

The image has the program, an empty /var/lib/isobar and /tmp, and nothing else; it runs as user 65532. The same files make the same
bytes: times are SOURCE_DATE_EPOCH (0 by default), names and owners are fixed. OUT.tar is an OCI image layout as `k3s ctr images import`,
`ctr images import` and `skopeo copy oci-archive:…` read it; k3s also imports what lies in /var/lib/rancher/k3s/agent/images/.
"""
import datetime
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile

USER = 65532
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
MEDIA = "application/vnd.oci.image."
PORTS = {"isobar-proxy": [7410, 7411, 7412], "isobar-controller": [7400, 7401]}


def entry(name, mode, size=0, kind=tarfile.REGTYPE, owner=0):
    item = tarfile.TarInfo(name)
    item.mode, item.size, item.type, item.mtime, item.uid, item.gid = mode, size, kind, EPOCH, owner, owner
    return item


def root_file_system(program, file):
    """The one layer, as a tar."""
    with open(file, "rb") as opened:
        content = opened.read()
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode, owner in [("tmp", 0o1777, 0), ("var", 0o755, 0), ("var/lib", 0o755, 0), ("var/lib/isobar", 0o700, USER)]:
            tar.addfile(entry(name, mode, kind=tarfile.DIRTYPE, owner=owner))
        tar.addfile(entry(program, 0o755, len(content)), io.BytesIO(content))
    return layer.getvalue()


class Layout:
    """Blobs by digest."""

    def __init__(self):
        self.files = {}

    def put(self, content, media, **more):
        if not isinstance(content, bytes):
            content = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content).hexdigest()
        self.files["blobs/sha256/" + digest] = content
        return {"mediaType": MEDIA + media, "digest": "sha256:" + digest, "size": len(content), **more}

    def image(self, program, architecture, file):
        created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        processor, _, variant = architecture.partition("/")
        platform = {"os": "linux", "architecture": processor, **({"variant": variant} if variant else {})}
        layer = root_file_system(program, file)
        config = {
            "created": created,
            **platform,
            "config": {
                "Entrypoint": ["/" + program],
                "User": f"{USER}:{USER}",
                "WorkingDir": "/var/lib/isobar",
                "ExposedPorts": {f"{port}/tcp": {} for port in PORTS.get(program, [])},
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": created, "created_by": "k3s/image.py"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA + "manifest.v1+json",
            "config": self.put(config, "config.v1+json"),
            "layers": [self.put(gzip.compress(layer, 9, mtime=0), "layer.v1.tar+gzip")],
        }
        return self.put(manifest, "manifest.v1+json", platform=platform)

    def write(self, out):
        with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in sorted(self.files.items()):
                tar.addfile(entry(name, 0o644, len(content)), io.BytesIO(content))


def main(arguments):
    if len(arguments) < 4 or any("=" not in pair for pair in arguments[3:]):
        sys.exit(__doc__.strip())
    out, name, program, *files = arguments
    layout = Layout()
    manifests = [layout.image(program, *pair.split("=", 1)) for pair in files]
    index = {"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": manifests}
    names = {
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        "io.containerd.image.name": name if "/" in name else "docker.io/library/" + name,
    }
    top = {**index, "manifests": [layout.put(index, "index.v1+json", annotations=names)]}
    layout.files["index.json"] = json.dumps(top, sort_keys=True, separators=(",", ":")).encode()
    layout.files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    layout.write(out)
    for manifest in manifests:
        layers = json.loads(layout.files["blobs/sha256/" + manifest["digest"][7:]])["layers"]
        platform = "/".join(manifest["platform"][key] for key in ("os", "architecture", "variant") if key in manifest["platform"])
        print(f"{name} {platform}: {sum(layer['size'] for layer in layers)} bytes")


main(sys.argv[1:])
