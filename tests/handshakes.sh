#!/usr/bin/env bash
# TLS handshakes: how many a second and what one costs the server, full, resumed and with client certificates, and the memory of an
# idle TLS connection, of isobar-proxy beside nginx and haproxy.
#
#   tests/handshakes.sh [path of isobar-proxy]
#
# One worker each, the same P-256 certificate, one client (openssl s_time). The cost is the server's own processor time
# (/proc/PID/stat) per connection; a connection makes no request. "mutual" is TLS 1.3 with a client certificate below a root that the
# server asks for; at isobar-proxy it is the mesh port. Memory is what IDLE (2000) connections with a finished handshake add to the
# resident memory of a server that has just started; python3 holds them.
set -euo pipefail
cd "$(dirname "$0")/.."
proxy="${1:-target/release/isobar-proxy}"
seconds="${SECONDS_EACH:-10}"
idle="${IDLE:-2000}"
ulimit -n "$((2 * idle + 200))" 2>/dev/null || ulimit -n "$(ulimit -Hn)"
work="$(mktemp -d)"
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"; }
trap finish EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/chain.pem" 2>/dev/null
cat "$work/chain.pem" "$work/key.pem" > "$work/both.pem"

# A root, the node's identity below it and a neighbour's, as the mesh has them.
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
signed() {
    key "$work/$1-key.pem"
    openssl req -new -key "$work/$1-key.pem" -subj / -out "$work/$1.csr" 2>/dev/null
    openssl x509 -req -in "$work/$1.csr" -CA "$work/roots.pem" -CAkey "$work/root-key.pem" -CAcreateserial -days 2 -out "$work/$1.pem" \
        -extfile <(printf 'subjectAltName=critical,URI:spiffe://isobar.local/node/%s\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n' "$1") 2>/dev/null
}
key "$work/root-key.pem"
openssl req -x509 -new -key "$work/root-key.pem" -days 2 -subj /CN=root -out "$work/roots.pem" \
    -addext 'subjectAltName=URI:spiffe://isobar.local' -addext 'keyUsage=critical,keyCertSign' 2>/dev/null
signed a
signed b
mkdir "$work/data"
cp "$work/a-key.pem" "$work/data/node-key.pem"
cp "$work/a.pem" "$work/data/node-chain.pem"
cp "$work/roots.pem" "$work/data/roots.pem"
cat "$work/a.pem" "$work/a-key.pem" > "$work/a-both.pem"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_isobar() {
    cat > "$work/proxy.toml" <<TOML
node = "a"
data_dir = "$work/data"
listen = "127.0.0.1:0"
mesh_listen = "127.0.0.1:$2"
admin_listen = "127.0.0.1:0"
workers = 1
[[listeners]]
name = "tls"
address = "127.0.0.1:$1"
protocol = "https"
certificates = [{ chain_file = "$work/chain.pem", key_file = "$work/key.pem", default = true }]
TOML
    "$proxy" --config "$work/proxy.toml" > "$work/isobar.log" 2>&1 & pids+=($!)
}
start_nginx() {
    cat > "$work/nginx.conf" <<CONF
daemon off; master_process off; pid $work/pid; error_log $work/nginx.log;
events { worker_connections $((2 * idle + 100)); }
http { access_log off; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
uwsgi_temp_path $work/u; scgi_temp_path $work/s;
server { listen 127.0.0.1:$1 ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:a:10m;
ssl_certificate $work/chain.pem; ssl_certificate_key $work/key.pem; }
server { listen 127.0.0.1:$2 ssl; ssl_protocols TLSv1.3; ssl_certificate $work/a.pem; ssl_certificate_key $work/a-key.pem;
ssl_verify_client on; ssl_client_certificate $work/roots.pem; } }
CONF
    nginx -c "$work/nginx.conf" -e "$work/nginx.log" > /dev/null 2>&1 & pids+=($!)
}
start_haproxy() {
    cat > "$work/haproxy.cfg" <<CONF
global
  nbthread 1
defaults
  mode http
  timeout client 60s
  timeout connect 1s
  timeout server 10s
frontend f
  bind 127.0.0.1:$1 ssl crt $work/both.pem ssl-min-ver TLSv1.2
  bind 127.0.0.1:$2 ssl crt $work/a-both.pem ssl-min-ver TLSv1.3 ca-file $work/roots.pem verify required
  http-request return status 200
CONF
    haproxy -db -f "$work/haproxy.cfg" > "$work/haproxy.log" 2>&1 & pids+=($!)
}
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
listens() { for _ in $(seq 100); do (echo > "/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.05; done; echo "nobody at $1" >&2; tail "$work"/*.log >&2; exit 1; }

# What each of $idle connections adds: port, process.
idle_kib() {
    python3 - "$1" "$2" "$idle" "$work" <<'PY'
import socket, ssl, sys, time
port, pid, count, work = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(f"{work}/b.pem", f"{work}/b-key.pem")
def resident():
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
def connections():
    return [context.wrap_socket(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
def settled():
    """Resident memory once it has stood still for a second."""
    last, since = resident(), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        if abs(resident() - last) > 64:
            last, since = resident(), time.monotonic()
    return last
before = settled()
held = connections()
print(f"{(settled() - before) / count:.1f}")
PY
}

printf '%-10s %-16s %12s %16s\n' server kind handshakes/s 'CPU us/handshake'
for server in isobar nginx haproxy; do
    port="$(free_port)"
    mutual="$(free_port)"
    "start_$server" "$port" "$mutual"
    pid="${pids[-1]}"
    listens "$port"
    listens "$mutual"
    # openssl s_time ends a connection before the tickets of TLS 1.3 arrive, so what is resumed is TLS 1.2.
    for kind in "full tls1_3 new $port" "full tls1_2 new $port" "resumed tls1_2 reuse $port" "mutual tls1_3 new $mutual"; do
        read -r name version mode at <<< "$kind"
        shown=()
        [ "$name" = mutual ] && shown=(-cert "$work/b.pem" -key "$work/b-key.pem")
        before="$(ticks "$pid")"
        count="$(openssl s_time -connect "127.0.0.1:$at" -"$version" -"$mode" "${shown[@]}" -time "$seconds" 2>/dev/null \
            | awk '/connections in .* real seconds/ { print $1 }' | tail -1)"
        after="$(ticks "$pid")"
        python3 - "$server" "$name $version" "$count" "$seconds" $((after - before)) <<'PY'
import os, sys
server, kind, count, seconds, ticks = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
cost = ticks / os.sysconf("SC_CLK_TCK") * 1e6 / max(count, 1)
print(f"{server:10} {kind:16} {count / seconds:12.0f} {cost:16.0f}")
PY
    done
    for kind in "idle tls1_3" "idle mutual"; do
        kill "$pid"
        wait "$pid" 2>/dev/null || true
        port="$(free_port)"
        mutual="$(free_port)"
        "start_$server" "$port" "$mutual"
        pid="${pids[-1]}"
        listens "$port"
        listens "$mutual"
        at="$port"
        [ "$kind" = "idle mutual" ] && at="$mutual"
        printf '%-10s %-16s %8s KiB each\n' "$server" "$kind" "$(idle_kib "$at" "$pid")"
    done
done
