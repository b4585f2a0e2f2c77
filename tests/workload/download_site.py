"""A web server on 127.0.0.1 that has a zip of photos, and the faults a test asks for."""

import http.server
import io
import random
import re
import zipfile

PHOTO = random.Random(0).randbytes(50_000)  # the script looks at names, not at pictures


def make_zip(members, photo=PHOTO):
    """A zip of `members`: names, or ZipInfo objects for odd ones."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in members:
            archive.writestr(member, photo)
    return buffer.getvalue()


MEMBERS = ["city/a b.jpg", "city/ü.JPG", "lake/1.png", "lake/notes.txt"]
MAC = ["__MACOSX/city/._a b.jpg", "city/._a b.jpg", "lake/.DS_Store"]


class Site(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, with the faults a test asks for."""

    def __init__(self):
        self.content = make_zip(MEMBERS + MAC)
        self.etag = '"one"'
        self.ranges = True
        self.reason = None
        self.status = []  # answered before anything else, one request each
        self.cut_after = []  # body bytes after which a request's connection is closed
        self.cut_always = None  # the same of every connection
        self.headers = {}  # in place of its own
        self.redirect = None
        self.hold = None  # an event that lets a held answer go on after its first half
        self.requests = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/photos.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server
        wanted = self.headers.get("Range")
        site.requests.append(wanted)
        if site.status:
            return self.send_error(site.status.pop(0), site.reason)
        if site.redirect:
            self.send_response(302)
            self.send_header("Location", site.redirect)
            return self.end_headers()
        start = 0
        unchanged = self.headers.get("If-Range") in (None, site.etag)
        if wanted and site.ranges and unchanged:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(site.content):
                return self.send_error(416)
        body = site.content[start:]
        self.send_response(206 if start else 200)
        if start:
            end = len(site.content)
            span = site.headers.get("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.send_header("Content-Range", span)
        if site.etag:
            self.send_header("ETag", site.etag)
        length = site.headers.get("Content-Length", len(body))
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if site.cut_after or site.cut_always:
            self.wfile.write(body[: site.cut_always or site.cut_after.pop(0)])
            self.close_connection = True
            return None
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if site.hold:
            site.hold.wait(60)
        try:
            self.wfile.write(body[half:])
        except ConnectionError:
            pass  # the test has killed the client
        return None
