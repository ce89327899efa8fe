"""A chat server on this machine that answers as a test says."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """A chat server on this machine: `reply(messages, number)` gives text, a status, or None to stall."""

    def __init__(self, reply):
        self.asked = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, self.headers["Authorization"], body))
                answer = reply(body["messages"], len(server.asked))
                if answer is None:
                    time.sleep(0.6)
                    answer = "Score: 1"
                status, content = (answer, b"busy") if isinstance(answer, int) else (200, _completion(answer))
                try:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(content)
                except BrokenPipeError:
                    pass  # the client has given up

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def _completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
