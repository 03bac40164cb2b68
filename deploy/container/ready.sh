#!/bin/bash
# Whether the program of this container is ready: /readyz of its admin port says 200.
set -euo pipefail
exec 3<> "/dev/tcp/127.0.0.1/${HEALTH_PORT:?the admin port}"
printf 'GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
read -r line <&3
[[ $line == *" 200 "* ]]
