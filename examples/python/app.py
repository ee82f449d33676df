"""A guest book: slow to start, and keeps what it is told in SQLite on its disk.

GET  /         the entries, as JSON, newest first
POST /         adds the request body (UTF-8, at most 1000 bytes) as an entry
POST /fill     writes files under /data until the disk is full; says how much
GET  /healthz  200

Environment: PORT (8080; 0 is any free one), DATA (/data), START_SECONDS (5): how long the start
takes, as one with a large framework to import does.
"""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_ENTRY = 1000
DATA = os.environ.get("DATA", "/data")


def connect():
    db = sqlite3.connect(os.path.join(DATA, "guestbook.db"), timeout=10)
    db.execute(
        "CREATE TABLE IF NOT EXISTS entries"
        " (id INTEGER PRIMARY KEY, text TEXT NOT NULL, written REAL NOT NULL)"
    )
    return db


def fill(directory):
    """Writes until the disk is full; answers with the bytes written."""
    written, block = 0, b"x" * (1 << 20)
    with open(os.path.join(directory, "filler"), "ab", buffering=0) as filler:
        try:
            while True:
                written += filler.write(block)
        except OSError as error:
            return written, str(error)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = (json.dumps(value, indent=2) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"ok": True})
        if self.path != "/":
            return self.answer(404, {"error": "not here"})
        db = connect()
        try:
            rows = db.execute("SELECT text, written FROM entries ORDER BY id DESC LIMIT 100").fetchall()
        finally:
            db.close()
        self.answer(200, {"entries": [{"text": t, "written": w} for t, w in rows]})

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_ENTRY:
            self.close_connection = True  # the body stays unread
            return self.answer(413, {"error": f"an entry holds at most {MAX_ENTRY} bytes"})
        text = self.rfile.read(length).decode("utf-8", "replace")
        if self.path == "/fill":
            written, why = fill(DATA)
            return self.answer(200, {"written_bytes": written, "stopped_by": why})
        if self.path != "/":
            return self.answer(404, {"error": "not here"})
        db = connect()
        try:
            with db:
                db.execute("INSERT INTO entries (text, written) VALUES (?, ?)", (text, time.time()))
        except sqlite3.OperationalError as error:
            return self.answer(507, {"error": f"could not be kept: {error}"})
        finally:
            db.close()
        self.answer(201, {"text": text})

    def log_message(self, form, *args):
        if self.path != "/healthz":
            print(form % args, flush=True)


def main():
    port = int(os.environ.get("PORT", "8080"))
    pause = float(os.environ.get("START_SECONDS", "5"))
    # One signal during the slow start ends it at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"python {sys.version.split()[0]}: starting, this takes {pause:g} s", flush=True)
    time.sleep(pause)
    os.makedirs(DATA, exist_ok=True)
    connect().close()

    server = ThreadingHTTPServer(("", port), Handler)
    # shutdown() waits for the serving loop, so it must not run in its thread.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"keeping entries in {DATA}, listening on port {server.server_port}", flush=True)
    with server:
        server.serve_forever()
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
