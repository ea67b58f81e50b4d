#!/usr/bin/env bash
# TLS handshakes: how many a second and what one costs the server, full and resumed, of isobar-proxy beside nginx and haproxy.
#
#   tests/handshakes.sh [path of isobar-proxy]
#
# One worker each, the same P-256 certificate, one client (openssl s_time). The cost is the server's own processor time
# (/proc/PID/stat) per connection; a connection makes no request.
set -euo pipefail
cd "$(dirname "$0")/.."
proxy="${1:-target/release/isobar-proxy}"
seconds="${SECONDS_EACH:-10}"
work="$(mktemp -d)"
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"; }
trap finish EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/chain.pem" 2>/dev/null
cat "$work/chain.pem" "$work/key.pem" > "$work/both.pem"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_isobar() {
    cat > "$work/proxy.toml" <<TOML
node = "a"
data_dir = "$work/data"
listen = "127.0.0.1:0"
mesh_listen = "127.0.0.1:0"
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
events { }
http { access_log off; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
uwsgi_temp_path $work/u; scgi_temp_path $work/s;
server { listen 127.0.0.1:$1 ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:a:10m;
ssl_certificate $work/chain.pem; ssl_certificate_key $work/key.pem; } }
CONF
    nginx -c "$work/nginx.conf" -e "$work/nginx.log" > /dev/null 2>&1 & pids+=($!)
}
start_haproxy() {
    cat > "$work/haproxy.cfg" <<CONF
global
  nbthread 1
defaults
  mode http
  timeout client 10s
  timeout connect 1s
  timeout server 10s
frontend f
  bind 127.0.0.1:$1 ssl crt $work/both.pem ssl-min-ver TLSv1.2
  http-request return status 200
CONF
    haproxy -db -f "$work/haproxy.cfg" > "$work/haproxy.log" 2>&1 & pids+=($!)
}
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

printf '%-10s %-14s %12s %16s\n' server kind handshakes/s 'CPU us/handshake'
for server in isobar nginx haproxy; do
    port="$(free_port)"
    "start_$server" "$port"
    pid="${pids[-1]}"
    for _ in $(seq 100); do (echo > "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.05; done
    # openssl s_time ends a connection before the tickets of TLS 1.3 arrive, so what is resumed is TLS 1.2.
    for kind in "full tls1_3 new" "full tls1_2 new" "resumed tls1_2 reuse"; do
        read -r name version mode <<< "$kind"
        before="$(ticks "$pid")"
        count="$(openssl s_time -connect "127.0.0.1:$port" -"$version" -"$mode" -time "$seconds" 2>/dev/null \
            | awk '/connections in .* real seconds/ { print $1 }' | tail -1)"
        after="$(ticks "$pid")"
        python3 - "$server" "$name $version" "$count" "$seconds" $((after - before)) <<'PY'
import os, sys
server, kind, count, seconds, ticks = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
cost = ticks / os.sysconf("SC_CLK_TCK") * 1e6 / max(count, 1)
print(f"{server:10} {kind:14} {count / seconds:12.0f} {cost:16.0f}")
PY
    done
done
