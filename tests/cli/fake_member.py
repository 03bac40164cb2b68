#!/usr/bin/env python3
"""Stands in for longshelf-kvstore, -worker and -router: answers /readyz, and misbehaves as the environment says.

FAKE_REFUSE=NAME: that program ends with code 78 at once. FAKE_STUBBORN=NAME: it ignores SIGTERM.
"""

import http.server
import os
import signal
import sys

options = dict(arg[2:].split("=", 1) for arg in sys.argv[1:])
name = os.path.basename(sys.argv[0]).removeprefix("longshelf-")
print(name, "started", sorted(options), flush=True)
if os.environ.get("FAKE_REFUSE") == name:
    print("cannot go on", flush=True)
    sys.exit(78)


class Handler(http.server.BaseHTTPRequestHandler):
    n_asked = 0

    def do_GET(self):
        Handler.n_asked += 1
        ready = Handler.n_asked > 2
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"ready\n" if ready else b"not ready: loading 50 %\n")

    def log_message(self, *args):
        pass


def stop(*_):
    if os.environ.get("FAKE_STUBBORN") != name:
        print("stopping", flush=True)
        os._exit(0)


signal.signal(signal.SIGTERM, stop)
host, port = options["admin-listen"].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
