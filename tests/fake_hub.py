"""A stand-in for the Hub on this machine: just what creating a repo, one commit and downloads need, held in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FakeHub:
    """Serves one repo.

    Attributes:
        files: content by path.
        commits: for each commit, its first line (summary, description) and the paths it added.
        requests: what was asked for, as (method, path).
    """

    def __init__(self):
        self.files, self.commits, self.requests = {}, [], []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    @property
    def head(self):
        """The hash of the last commit."""
        return f"{len(self.commits):040x}"

    def edit(self, path, content):
        """Somebody changes a file on the Hub."""
        self.files[path] = content
        self.commits.append(({"summary": "Edit"}, [path]))

    def commit(self, lines):
        header, *operations = (json.loads(line) for line in lines.splitlines())
        added = {item["value"]["path"]: base64.b64decode(item["value"]["content"]) for item in operations}
        self.files.update(added)
        self.commits.append((header["value"], sorted(added)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_POST(self):
        self.hub.requests.append(("POST", self.path))
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            name = "/".join(filter(None, [json.loads(body).get("organization"), json.loads(body)["name"]]))
            self.answer({"url": f"{self.hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        elif "/commit/" in self.path:
            self.hub.commit(body)
            repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            url = f"{self.hub.url}/{repo}/commit/{self.hub.head}"
            self.answer({"commitUrl": url, "commitOid": self.hub.head, "success": True})
        else:
            self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.requests.append((self.command, self.path))
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            content = self.hub.files.get(path.partition("/resolve/")[2].partition("/")[2])
            if content is None:
                self.answer({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.hub.head})
            else:
                etag = hashlib.sha1(content).hexdigest()
                self.answer(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.head})
        elif "/tree/" in path:  # of a folder with more chat templates; there is none
            self.answer({}, 404, {"X-Error-Code": "EntryNotFound"})
        elif "/api/models/" in path:
            siblings = [{"rfilename": name} for name in self.hub.files]
            repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            self.answer({"id": repo, "modelId": repo, "sha": self.hub.head, "siblings": siblings, "tags": []})
        else:
            self.answer({}, 404, {})

    def answer(self, content, status=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass
