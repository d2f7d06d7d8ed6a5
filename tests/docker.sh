#!/bin/bash
# A dockerd for tests, with images to run: its own folders and socket, in a network namespace of its own, so that it
# touches neither the node's docker0 nor its packet filter. To be sourced, or run:
#   tests/docker.sh start DIR    prints the socket's path; DIR short, because socket paths end at 108 bytes
#   tests/docker.sh bridge DIR   the same, with a bridge in its namespace
#   tests/docker.sh mortal DIR   the same as start, without live-restore: what runs in it ends with it
#   tests/docker.sh stop DIR     removes its containers and everything in DIR
# Images: wharf-test/busybox:1; wharf-test/user:1 with USER, WORKDIR, ENTRYPOINT, ENV, HEALTHCHECK and VOLUME;
# wharf-test/noshell:1 with no file at all but a folder; and, where the machine has OpenSSH, wharf-test/sshd:1 with its
# server and client, and wharf-test/sshd-user:1, the same with USER.

# What tests with containers need from Debian's packages.
DOCKER_PACKAGES="docker.io iproute2 iptables busybox-static docker-registry apache2-utils openssh-server openssh-client"

docker_can_run() {
    [ "$(id -u)" = 0 ] && command -v dockerd >/dev/null && command -v docker >/dev/null &&
        command -v busybox >/dev/null && command -v nsenter >/dev/null && command -v ip >/dev/null
}

docker_namespace() { # DIR
    echo "wt-$(printf %s "$1" | cksum | cut -d' ' -f1)"
}

docker_launch() { # DIR: dockerd alone, also after it was killed
    local dir=$1 namespace try network=(--bridge=none) restore=(--live-restore)
    [ -e "$dir/mortal" ] && restore=()
    # Addresses that nobody has but this namespace; ports are published by docker-proxy.
    [ -e "$dir/bridge" ] && network=(--bip=10.213.0.1/24)
    namespace=$(docker_namespace "$dir")
    # Those that were killed have left them; a new dockerd takes even a zombie for the living.
    docker_await_end "$dir/pid" && docker_await_end "$dir/exec/containerd/containerd.pid" || return 1
    # Not `ip netns exec`, under which it does not see the control groups.
    setsid nsenter --net="/run/netns/$namespace" dockerd --host "unix://$dir/docker.sock" --data-root "$dir/root" \
        --config-file "$dir/daemon.json" --exec-root "$dir/exec" --pidfile "$dir/pid" "${restore[@]}" "${network[@]}" --iptables=false \
        >>"$dir/dockerd.log" 2>&1 </dev/null &
    for try in $(seq 300); do
        docker -H "unix://$dir/docker.sock" version >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    tail -n 20 "$dir/dockerd.log" >&2
    return 1
}

docker_await_end() { # PIDFILE: until its process is gone or a zombie; then it goes too
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    for _ in $(seq 100); do
        case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in
            "" | Z*) rm -f "$1"; return 0 ;;
        esac
        sleep 0.1
    done
    echo "process $pid of $1 does not end" >&2
    return 1
}

docker_images() { # DIR
    local dir=$1 tree="$1/tree" applet
    local import=(docker -H "unix://$dir/docker.sock" import)
    mkdir -p "$tree"/{bin,etc,tmp,work,proc,dev,sys,home/ada} || return 1
    cp "$(command -v busybox)" "$tree/bin/busybox" || return 1
    for applet in $("$tree/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s /bin/busybox "$tree/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nada:x:1000:\n' >"$tree/etc/group"
    chmod 1777 "$tree/tmp" "$tree/work"
    tar -C "$tree" -c . | "${import[@]}" - wharf-test/busybox:1 >/dev/null || return 1
    tar -C "$tree" -c . | "${import[@]}" --change 'USER ada' --change 'WORKDIR /work' \
        --change 'ENTRYPOINT ["/bin/false"]' --change 'ENV A=image B=image' --change 'VOLUME /data' \
        --change 'HEALTHCHECK --interval=1s CMD touch /work/health' - wharf-test/user:1 >/dev/null || return 1
    mkdir -p "$dir/empty/etc" || return 1
    tar -C "$dir/empty" -c . | "${import[@]}" - wharf-test/noshell:1 >/dev/null || return 1
    docker_ssh_images "$dir" "$tree"
}

docker_ssh_images() { # DIR TREE: into which it puts OpenSSH with its libraries
    local dir=$1 tree=$2 program file
    local import=(docker -H "unix://$dir/docker.sock" import)
    [ -x /usr/sbin/sshd ] && [ -x /usr/bin/ssh ] || return 0
    for program in /usr/sbin/sshd /usr/bin/ssh /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server; do
        [ -x "$program" ] || continue
        for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
            mkdir -p "$tree$(dirname "$file")" && cp -L "$file" "$tree$file" || return 1
        done
    done
    echo 'sshd:x:100:65534::/run/sshd:/bin/false' >>"$tree/etc/passwd"
    printf 'root:*:19000::::::\nada:!:19000::::::\n' >"$tree/etc/shadow"
    chmod 640 "$tree/etc/shadow"
    mkdir -p "$tree/root" && chmod 700 "$tree/root" && chown 1000:1000 "$tree/home/ada" || return 1
    tar -C "$tree" -c . | "${import[@]}" - wharf-test/sshd:1 >/dev/null || return 1
    tar -C "$tree" -c . | "${import[@]}" --change 'USER ada' - wharf-test/sshd-user:1 >/dev/null
}

docker_start() { # DIR [bridge|mortal]
    local dir=$1
    # All of it is removed in the end: nobody else's folder, and no dockerd's that runs.
    [ ! -e "$dir/root" ] || { echo "tests/docker.sh: $dir is in use" >&2; return 1; }
    mkdir -p "$dir" || return 1
    [ -z "${2:-}" ] || touch "$dir/$2"
    # The node's own must not count; a test may write to this one and have dockerd read it again (SIGHUP).
    [ -e "$dir/daemon.json" ] || echo '{}' >"$dir/daemon.json"
    ip netns del "$(docker_namespace "$dir")" 2>/dev/null
    ip netns add "$(docker_namespace "$dir")" || return 1
    ip -n "$(docker_namespace "$dir")" link set lo up
    docker_launch "$dir" && docker_images "$dir" || { docker_stop "$dir"; return 1; }
}

docker_stop() { # DIR
    local dir=$1 pid containers mount
    [ -d "$dir" ] || return 0
    # shellcheck disable=SC2046 # a list of ids
    containers=$(timeout 10 docker -H "unix://$dir/docker.sock" ps -aq 2>/dev/null)
    # shellcheck disable=SC2086
    [ -n "$containers" ] && timeout 60 docker -H "unix://$dir/docker.sock" rm -fv $containers >/dev/null 2>&1
    # dockerd, containerd and its shims: all of them name the folder, and nobody else does.
    for pid in $(docker_processes "$dir"); do kill -TERM "$pid" 2>/dev/null; done
    for _ in $(seq 100); do
        [ -z "$(docker_processes "$dir")" ] && break
        sleep 0.1
    done
    for pid in $(docker_processes "$dir"); do kill -KILL "$pid" 2>/dev/null; done
    while read -r mount; do umount -l "$mount" 2>/dev/null; done \
        < <(awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r)
    ip netns del "$(docker_namespace "$dir")" 2>/dev/null
    rm -rf "$dir"
}

docker_processes() { # DIR
    local process name
    for process in /proc/[0-9]*; do
        name=$(cat "$process/comm" 2>/dev/null)
        case $name in dockerd | containerd | containerd-shim*) ;; *) continue ;; esac
        grep -qsaF "$1/" "$process/cmdline" && echo "${process#/proc/}"
    done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -u
    case "${2:-/}" in
        /?*) ;;
        *) [ -z "${2:-}" ] || { echo "tests/docker.sh: $2: DIR has to be absolute" >&2; exit 2; } ;;
    esac
    case "${1:-} ${2:+dir}" in
        "can-run ") docker_can_run ;;
        "start dir") docker_start "$2" && echo "$2/docker.sock" ;;
        "bridge dir") docker_start "$2" bridge && echo "$2/docker.sock" ;;
        "mortal dir") docker_start "$2" mortal && echo "$2/docker.sock" ;;
        "launch dir") docker_launch "$2" ;;
        "stop dir") docker_stop "$2" ;;
        *) echo "usage: tests/docker.sh can-run | start DIR | bridge DIR | mortal DIR | launch DIR | stop DIR" >&2; exit 2 ;;
    esac
fi
