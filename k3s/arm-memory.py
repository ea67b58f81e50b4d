#!/usr/bin/env python3
"""Measures the proxy's resident memory on ARM, in a booted arm64 machine: under qemu-user it would be qemu's own.

    k3s/arm-memory.py PROXY ISOBAR [CONNECTIONS]
    k3s/arm-memory.py target/arm/out/aarch64/isobar-proxy target/release/isobar 200

PROXY is the program for aarch64, ISOBAR this machine's `isobar`, which runs the controller. A virtual machine with Debian's cloud kernel
and busybox starts the proxy, which enrols with the controller; then another node's identity opens CONNECTIONS (200) mutual TLS
connections with HTTP/2 to its mesh port and keeps them. Said are the sums of the proxy's /proc/PID/smaps_rollup.

Needs (Debian): qemu-system-arm, and apt that knows the architecture arm64 (k3s/build-arm.sh adds it). All traffic is loopback's.
"""
import gzip
import io
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time

MODULES = ["drivers/virtio/virtio_ring.ko", "drivers/virtio/virtio.ko", "drivers/virtio/virtio_mmio.ko", "net/core/failover.ko", "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko"]
PATIENCE_S = 120
# An HTTP/2 client's first words: the preface and empty SETTINGS.
HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /data
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do /bin/busybox insmod /modules/$module; done
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
/bin/busybox ip route add default via 10.0.2.2
/bin/busybox date -s @NOW

/isobar-proxy --log warn --config /proxy.toml &
while /bin/busybox sleep 1; do echo MEMORY $(/bin/busybox grep -E '^(Rss|Pss|Pss_Anon|AnonHugePages):' /proc/$!/smaps_rollup); done
"""


def packages(directory):
    """The kernel's and busybox's packages, unpacked; returns where, and the kernel's version."""
    depends = subprocess.run(["apt-cache", "depends", "linux-image-cloud-arm64:arm64"], check=True, capture_output=True, text=True).stdout
    kernel = re.search(r"Depends: (linux-image-\S+)", depends).group(1)
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", kernel, "busybox-static:arm64"], check=True, cwd=directory)
    for package in [f for f in os.listdir(directory) if f.endswith(".deb")]:
        subprocess.run(["dpkg", "-x", package, "root"], check=True, cwd=directory)
    return os.path.join(directory, "root"), kernel.split(":")[0].removeprefix("linux-image-")


def initramfs(files):
    """A newc archive of name -> bytes; directories are made."""
    out = io.BytesIO()
    number = 0

    def add(name, mode, content=b""):
        nonlocal number
        number += 1
        encoded = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0]
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        out.write(b"\0" * (-out.tell() % 4) + content)
        out.write(b"\0" * (-out.tell() % 4))

    for directory in sorted({os.path.dirname(name) for name in files} - {""}):
        add(directory, 0o40755)
    for name, content in files.items():
        add(name, 0o100755, content)
    add("TRAILER!!!", 0)
    return gzip.compress(out.getvalue(), 1)


def wait_for(what, look):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            sys.exit(f"arm-memory.py: no {what} in {PATIENCE_S} s")
        time.sleep(0.2)
    return found


def read(path):
    try:
        with open(path, "rb") as opened:
            return opened.read()
    except FileNotFoundError:
        return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def proxy_toml(directory, node, data, controller, files, listen):
    path = os.path.join(directory, node + ".toml")
    with open(path, "w") as opened:
        opened.write(f"node = '{node}'\ndata_dir = '{data}'\ncontroller = '{controller}'\nca_file = '{files}/ca.pem'\n"
                     f"token_file = '{files}/enrol-token'\nlisten = '{listen}:0'\nmesh_listen = '{listen}:{7411 if node == 'arm' else 0}'\n"
                     "admin_listen = '127.0.0.1:0'\n")
    return path


def main(proxy, isobar, connections="200"):
    children = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            measure(directory, children, proxy, isobar, int(connections))
        finally:
            for child in children:
                child.kill()
                child.wait()


def measure(directory, children, proxy, isobar, connections):
    def start(*command, **more):
        children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, **more))
        return children[-1]

    data = os.path.join(directory, "controller")
    with open(os.path.join(directory, "controller.toml"), "w") as opened:
        opened.write(f"data_dir = '{data}'\nrest_listen = '127.0.0.1:0'\nstream_listen = '127.0.0.1:0'\nstream_names = ['10.0.2.2']\nenrol_open = true\n")
    start(isobar, "controller", "--config", os.path.join(directory, "controller.toml"), stderr=subprocess.DEVNULL)
    addresses = json.loads(wait_for("controller", lambda: read(os.path.join(data, "addresses.json"))))
    port = addresses["stream"].rpartition(":")[2]

    peer = os.path.join(directory, "peer")
    start(isobar, "proxy", "--config", proxy_toml(directory, "peer", peer, "127.0.0.1:" + port, data, "127.0.0.1"), stderr=subprocess.DEVNULL)
    wait_for("identity of the peer", lambda: read(os.path.join(peer, "node-chain.pem")))

    root, version = packages(directory)
    modules = os.path.join(root, "lib/modules", version, "kernel")
    files = {"modules/" + os.path.basename(name): read(os.path.join(modules, name)) for name in MODULES}
    names = " ".join(os.path.basename(name) for name in MODULES)
    files |= {
        "bin/busybox": read(os.path.join(root, "bin/busybox")),
        "isobar-proxy": read(proxy),
        "proxy.toml": read(proxy_toml(directory, "arm", "/data", "10.0.2.2:" + port, "", "0.0.0.0")),
        "ca.pem": read(os.path.join(data, "ca.pem")),
        "enrol-token": read(os.path.join(data, "enrol-token")),
        "init": INIT.replace("MODULES", names).replace("NOW", str(int(time.time()))).encode(),
    }
    with open(os.path.join(directory, "initramfs"), "wb") as opened:
        opened.write(initramfs(files))
    mesh = free_port()
    console = os.path.join(directory, "console")
    start("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-m", "512", "-display", "none", "-monitor", "none", "-no-reboot",
          "-serial", "file:" + console, "-kernel", os.path.join(root, "boot/vmlinuz-" + version), "-initrd", os.path.join(directory, "initramfs"),
          "-append", "console=ttyAMA0 quiet panic=-1 transparent_hugepage=never", "-device", "virtio-net-device,netdev=n",
          "-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{mesh}-:7411")

    def said():
        text = (read(console) or b"").decode(errors="replace")
        return [dict((k, int(v)) for k, v in re.findall(r"(\w+): (\d+) kB", line)) for line in re.findall(r"MEMORY (Rss.*)", text)]

    def resident(seconds):
        seen = len(said())
        wait_for("figures", lambda: len(said()) >= seen + seconds)
        return said()[-1]

    try:
        wait_for("proxy in the machine", said)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(os.path.join(peer, "node-chain.pem"), os.path.join(peer, "node-key.pem"))

        def connect():
            raw = socket.create_connection(("127.0.0.1", mesh), timeout=20)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                stream = context.wrap_socket(raw)
                stream.sendall(HTTP2_BEGIN)
                # Its own SETTINGS: the connection is up.
                return stream if stream.recv(64) else None
            except (ssl.SSLError, OSError):
                raw.close()
                return None

        first = wait_for("mutual TLS to the proxy", connect)
        first.close()
        idle = resident(10)
        held = []
        for _ in range(connections):
            held.append(wait_for("connection", connect))
        busy = resident(5)
    except SystemExit:
        sys.stderr.write((read(console) or b"").decode(errors="replace")[-3000:])
        raise
    print(f"kernel {version}, {os.path.getsize(proxy)} bytes of program")
    print(f"idle, enrolled: Rss {idle['Rss']} kB, of which anonymous {idle['Pss_Anon']} kB")
    print(f"{connections} mutual TLS connections: Rss {busy['Rss']} kB, of which anonymous {busy['Pss_Anon']} kB")


if len(sys.argv) not in (3, 4):
    sys.exit(__doc__.strip())
main(*sys.argv[1:])
