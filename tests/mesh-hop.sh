#!/usr/bin/env bash
# Processor time per request over two proxies with mutual TLS between them: isobar-proxy to isobar-proxy beside haproxy to haproxy
# with client certificates.
#
#   tests/mesh-hop.sh [directory of isobar-proxy and isobar-controller]
#
# One worker or thread each; the same nginx serves 128 bytes behind the second proxy; wrk keeps CONNECTIONS (32) HTTP/1.1 connections
# busy for SECONDS_EACH (10) at the first. All endpoints are on the second node, so every request makes the hop. The cost is the time of
# both proxies (/proc/PID/stat) per request that wrk counted.
set -euo pipefail
cd "$(dirname "$0")/.."
programs="${1:-target/release}"
seconds="${SECONDS_EACH:-10}"
connections="${CONNECTIONS:-32}"
work="$(mktemp -d)"
pids=()
finish() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait; rm -rf "$work"; }
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }
until_ok() {
    for _ in $(seq 300); do curl -sf -o /dev/null -H 'Host: hop.example' "$1" && return; sleep 0.1; done
    echo "$1 does not answer" >&2; tail -n 5 "$work"/*.log >&2; exit 1
}

endpoint="$(free_port)"
mkdir "$work/nginx"
cat > "$work/nginx.conf" <<CONF
daemon off; master_process off; pid $work/nginx/pid; error_log $work/nginx.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000; client_body_temp_path $work/nginx/b; proxy_temp_path $work/nginx/p;
fastcgi_temp_path $work/nginx/f; uwsgi_temp_path $work/nginx/u; scgi_temp_path $work/nginx/s;
server { listen 127.0.0.1:$endpoint; location / { return 200 '$(printf 'x%.0s' $(seq 128))'; } } }
CONF
nginx -c "$work/nginx.conf" -e "$work/nginx.log" > /dev/null 2>&1 & pids+=($!)

start_isobar() {
    stream="$(free_port)"; mesh=("$(free_port)" "$(free_port)")
    "$programs/isobar-controller" --data-dir "$work/controller" --rest-listen 127.0.0.1:0 --stream-listen "127.0.0.1:$stream" \
        --enrol-open > "$work/controller.log" 2>&1 & pids+=($!)
    for _ in $(seq 100); do [ -s "$work/controller/addresses.json" ] && break; sleep 0.1; done
    for n in 0 1; do
        listen="$(free_port)"; [ "$n" = 0 ] && first="$listen"
        cat > "$work/proxy-$n.toml" <<TOML
node = "n$n"
data_dir = "$work/node-$n"
controller = "127.0.0.1:$stream"
ca_file = "$work/controller/ca.pem"
token_file = "$work/controller/enrol-token"
listen = "127.0.0.1:$listen"
mesh_listen = "127.0.0.1:${mesh[$n]}"
admin_listen = "127.0.0.1:0"
location = { lat_deg = 45.0, lon_deg = 9.0$n }
workers = 1
[[services]]
service = "bench/hop"
hosts = ["hop.example"]
$([ "$n" = 1 ] && echo "endpoints = [{ address = \"127.0.0.1:$endpoint\", workers = 1024 }]
capacity_rps = 1000000.0")
TOML
        "$programs/isobar-proxy" --config "$work/proxy-$n.toml" > "$work/proxy-$n.log" 2>&1 & pids+=($!); hop[n]=$!
    done
}
start_haproxy() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/chain.pem" 2>/dev/null
    cat "$work/chain.pem" "$work/key.pem" > "$work/both.pem"
    first="$(free_port)"; second="$(free_port)"
    head="global
  nbthread 1
  no strict-limits
defaults
  mode http
  http-reuse always
  timeout client 60s
  timeout connect 5s
  timeout server 60s
"
    printf '%s' "$head" | cat - <(echo "frontend f
  bind 127.0.0.1:$first
  default_backend b
backend b
  server s 127.0.0.1:$second ssl verify required ca-file $work/chain.pem crt $work/both.pem ssl-min-ver TLSv1.3 sni str(localhost)") > "$work/haproxy-0.cfg"
    printf '%s' "$head" | cat - <(echo "frontend f
  bind 127.0.0.1:$second ssl crt $work/both.pem verify required ca-file $work/chain.pem ssl-min-ver TLSv1.3
  default_backend b
backend b
  server s 127.0.0.1:$endpoint") > "$work/haproxy-1.cfg"
    for n in 0 1; do
        haproxy -db -f "$work/haproxy-$n.cfg" > "$work/haproxy-$n.log" 2>&1 & pids+=($!); hop[n]=$!
    done
}

printf '%-10s %12s %16s %16s\n' proxies requests/s 'CPU us/request' 'first + second'
for proxies in isobar haproxy; do
    hop=()
    "start_$proxies"
    until_ok "http://127.0.0.1:$first/"
    wrk -t1 -c "$connections" -d 2 -H 'Host: hop.example' "http://127.0.0.1:$first/" > /dev/null
    before=("$(ticks "${hop[0]}")" "$(ticks "${hop[1]}")")
    wrk -t1 -c "$connections" -d "$seconds" -H 'Host: hop.example' "http://127.0.0.1:$first/" > "$work/wrk"
    after=("$(ticks "${hop[0]}")" "$(ticks "${hop[1]}")")
    if grep -q 'Non-2xx' "$work/wrk"; then cat "$work/wrk" >&2; exit 1; fi
    count="$(awk '/requests in/ { print $1 }' "$work/wrk")"
    python3 - "$proxies" "$count" "$seconds" $((after[0] - before[0])) $((after[1] - before[1])) <<'PY'
import os, sys
proxies, count, seconds, *ticks = sys.argv[1], *map(int, sys.argv[2:])
first, second = (t / os.sysconf("SC_CLK_TCK") * 1e6 / max(count, 1) for t in ticks)
print(f"{proxies:10} {count / seconds:12.0f} {first + second:16.1f}   {first:.1f} + {second:.1f}")
PY
done
