"""An S3 server in memory for the tests: `moto`, one request at a time.

    python s3_server.py BUCKET PORT_FILE

It listens on a free port of 127.0.0.1, makes the bucket, and then writes the port to the file. S3 decides a conditional
put atomically. moto looks whether the object is there and then puts, so two threads could both find nothing: hence one
request at a time. It ends when its standard input does.
"""

import os
import sys
import threading

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    """Says nothing of requests that went well."""

    def log_request(self, *_):
        pass


bucket, port_file = sys.argv[1:]
s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=Quiet)
# Whole or not at all.
with open(port_file + ".new", "w", encoding="ascii") as file:
    file.write(str(server.server_port))
os.rename(port_file + ".new", port_file)


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
server.serve_forever()
