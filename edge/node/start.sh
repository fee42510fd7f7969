# The command of the Wallarm node's container: bash -c "$(cat start.sh)".
# Writes the configuration that the environment carries, starts the image's
# init, and turns SIGTERM into a graceful stop. README.md, "Start and stop".
set -u

say() { printf 'start: %s\n' "$*" >&2; }

# Process 1 ignores a signal that it has no handler for.
trap 'exit 143' TERM INT

dir=${GATE_NGINX_DIR:-/etc/nginx}
init=${GATE_INIT:-/usr/local/bin/init}
connections=${GATE_WORKER_CONNECTIONS:-8192}
shutdown=${GATE_WORKER_SHUTDOWN_TIMEOUT:-110s}
port=${NGINX_PORT:-80}

if [ -n "${NGINX_BACKEND:-}" ] || [ -n "${NGINX_EXTERNAL_CONFIG:-}" ]; then
  say "NGINX_BACKEND and NGINX_EXTERNAL_CONFIG must not be set: with the first, init replaces this configuration by its own; with the second, it sets up no log"
  exit 2
fi
case $connections in '' | 0* | *[!0-9]* | ???????*)
  say "GATE_WORKER_CONNECTIONS is '$connections', not a number from 1 to 999999"
  exit 2 ;;
esac
if ! [[ $shutdown =~ ^[1-9][0-9]{0,3}s$ ]]; then
  say "GATE_WORKER_SHUTDOWN_TIMEOUT is '$shutdown', not whole seconds such as 110s"
  exit 2
fi

# write NAME FILE: the base64 in the variable NAME, decoded, is FILE.
write() {
  local encoded=${!1:-}
  if [ -z "$encoded" ]; then
    say "$1 is not set: it holds the base64 of $2"
    exit 2
  fi
  if ! printf %s "$encoded" | base64 -d >"$2.new" || ! [ -s "$2.new" ]; then
    say "$1 is not the base64 of a file, or $2 cannot be written"
    exit 1
  fi
  mv "$2.new" "$2" || exit 1
}

mkdir -p "$dir/gate" "$dir/http.d" "$dir/modules" || exit 1
write GATE_WALLARM_CONF "$dir/gate/wallarm.conf"
write GATE_LOG_CONF "$dir/gate/log.conf"
write GATE_DEFAULT_CONF "$dir/http.d/default.conf"

if ! grep -Eq "^ *listen $port default_server;" "$dir/http.d/default.conf"; then
  say "NGINX_PORT is '$port', but the configuration does not listen there: the status server of the node would use another port than its traffic"
  exit 2
fi

# Each proxied request takes two connections, and a file when it is buffered.
# Asking for more than the hard limit would only log an alert in each worker.
files=$((connections * 3))
hard=$(ulimit -Hn)
if [ "$hard" != unlimited ] && [ "$hard" -lt "$files" ]; then
  say "the hard limit of open files is $hard: $connections connections would need $files"
  files=$hard
fi
printf 'worker_rlimit_nofile %s;\nworker_shutdown_timeout %s;\n' "$files" "$shutdown" >"$dir/modules/99-gate.conf" || exit 1

# init compares the first line of nginx.conf, so nothing but this one changes.
if grep -Eq '^[[:space:]]*worker_connections[[:space:]]+[0-9]+;' "$dir/nginx.conf"; then
  sed -i -E "s/^([[:space:]]*)worker_connections[[:space:]]+[0-9]+;/\\1worker_connections $connections;/" "$dir/nginx.conf" || exit 1
else
  say "no worker_connections in $dir/nginx.conf: it stays as it is"
fi

# signal asks init, or the nginx that it has become, to stop; it fails when
# neither is there. nginx takes SIGTERM for a fast shutdown, which cuts running
# responses; SIGQUIT drains them. Until init has become nginx there is nothing
# to drain, and bash would not take the SIGQUIT.
signal() {
  local name=
  { read -r name <"/proc/$pid/comm"; } 2>/dev/null
  if [ "$name" = nginx ]; then
    kill -QUIT "$pid" 2>/dev/null
  else
    kill -TERM "$pid" 2>/dev/null
  fi
}

# While it loads its configuration nginx ignores SIGQUIT, as everything does
# that bash starts in the background: so ask again. Asking twice changes nothing.
stop() {
  say "stopping: nginx finishes what it has begun, anything else ends at once"
  while signal; do sleep 1; done &
}

# A signal between these two lines still finds a handler: it is noted.
stopped=
trap 'stopped=1' TERM INT
"$init" &
pid=$!
trap stop TERM INT
[ -z "$stopped" ] || stop

# wait also returns when a trap has run, so it is the last one that counts: bash
# remembers the status of a process that is gone.
while kill -0 "$pid" 2>/dev/null; do
  wait "$pid"
done
wait "$pid"
exit $?
