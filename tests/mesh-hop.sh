#!/usr/bin/env bash
# Processor time per request over two proxies with mutual TLS between them: isobar-proxy to isobar-proxy beside haproxy to haproxy
# and Envoy to Envoy with client certificates.
#
#   tests/mesh-hop.sh [directory of isobar, or of isobar-proxy and isobar-controller]
#
# One worker or thread each; the same nginx serves 128 bytes behind the second proxy; wrk keeps CONNECTIONS (32) HTTP/1.1 connections
# busy for SECONDS_EACH (10) at the first. All endpoints are on the second node, so every request makes the hop. The cost is the time of
# both proxies (/proc/PID/stat) per request that wrk counted. isobar-proxy and Envoy hop by HTTP/2, haproxy by HTTP/1.1, as each
# does best.
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

isobar() {
    if [ -x "$programs/isobar-$1" ]; then exec "$programs/isobar-$1" --config "$2"; else exec "$programs/isobar" "$1" --config "$2"; fi
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/chain.pem" 2>/dev/null
cat "$work/chain.pem" "$work/key.pem" > "$work/both.pem"

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
    cat > "$work/controller.toml" <<TOML
data_dir = "$work/controller"
rest_listen = "127.0.0.1:0"
stream_listen = "127.0.0.1:$stream"
enrol_open = true
TOML
    isobar controller "$work/controller.toml" > "$work/controller.log" 2>&1 & pids+=($!)
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
$([ "$n" = 0 ] && echo "endpoints = []" || echo "endpoints = [{ address = \"127.0.0.1:$endpoint\", workers = 1024 }]
capacity_rps = 1000000.0")
TOML
        isobar proxy "$work/proxy-$n.toml" > "$work/proxy-$n.log" 2>&1 & pids+=($!); hop[n]=$!
    done
}
start_haproxy() {
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

start_envoy() {
    first="$(free_port)"; second="$(free_port)"
    python3 - "$work" "$first" "$second" "$endpoint" <<'PY'
import json, sys
work, *ports = sys.argv[1], *map(int, sys.argv[2:])
api = "type.googleapis.com/envoy.extensions."
at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
file = lambda name: {"filename": f"{work}/{name}.pem"}
common = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}, "alpn_protocols": ["h2"],
    "tls_certificates": [{"certificate_chain": file("chain"), "private_key": file("key")}],
    "validation_context": {"trusted_ca": file("chain")}}
def tls(side, more):
    kind = f"{api}transport_sockets.tls.v3.{side}TlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, "common_tls_context": common, **more}}
for n in (0, 1):
    many = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    cluster = {"name": "next", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(ports[n + 1])}}]}]}}
    chain = {"filters": [{"name": "http", "typed_config": {"@type": f"{api}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{api}filters.http.router.v3.Router"}}]}}]}
    if n == 0:
        cluster["transport_socket"] = tls("Upstream", {"sni": "localhost"})
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{api}upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    else:
        chain["transport_socket"] = tls("Downstream", {"require_client_certificate": True})
    config = {"static_resources": {"listeners": [{"name": "l", "address": at(ports[n]), "filter_chains": [chain]}], "clusters": [cluster]}}
    json.dump(config, open(f"{work}/envoy-{n}.json", "w"))
PY
    # The wheel's wrapper in Python ends, or becomes the program.
    for n in 0 1; do
        envoy -c "$work/envoy-$n.json" --concurrency 1 --disable-hot-restart --log-level error > "$work/envoy-$n.log" 2>&1 & pids+=($!); hop[n]=$!
    done
}

printf '%-10s %12s %16s %16s\n' proxies requests/s 'CPU us/request' 'first + second'
for proxies in isobar haproxy envoy; do
    command -v "$proxies" > /dev/null || [ "$proxies" = isobar ] || { echo "$proxies is not installed" >&2; continue; }
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
