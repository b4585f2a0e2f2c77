"""Small programs that the bench runs at the ends of the link: page servers, askers, raw TCP."""

EMPTY_APP = """\
import typer
app = typer.Typer()
@app.command()
def one(name: str = "x") -> None:
    "One."
@app.command()
def two(name: str = "x") -> None:
    "Two."
app()
"""
RAW_SERVER = """
import socket
server = socket.create_server(("{address}", 5001))
print("ready", flush=True)
data = b"x" * 65536
while True:
    link, _ = server.accept()
    with link:
        left = int.from_bytes(link.recv(8), "big")
        while left:
            left -= link.send(data[:min(left, 65536)])
"""
RAW_CLIENT = """
import socket, sys
size = int(sys.argv[1])
link = socket.create_connection(("{address}", 5001))
link.send(size.to_bytes(8, "big"))
buffer, got = bytearray(1 << 20), 0
while got < size:
    got += link.recv_into(buffer) or sys.exit(1)
"""
PAGES = '''\
"""Answers any request on any connection with 1 KB, for ever."""
import asyncio, sys

HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Length: 1024\\r\\nContent-Type: text/plain\\r\\n\\r\\n"


class Pages(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.asked = transport, b""

    def data_received(self, data):
        self.asked += data
        while b"\\r\\n\\r\\n" in self.asked:
            self.asked = self.asked.partition(b"\\r\\n\\r\\n")[2]
            self.transport.write(HEAD + b"x" * 1024)


async def main(address, port):
    server = await asyncio.get_running_loop().create_server(Pages, address, int(port), backlog=512)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main(*sys.argv[1:3]))
'''
LOAD = '''\
"""Requests a second of 16 clients: address, port, seconds, whether connections are kept."""
import asyncio, sys, time

ASK = b"GET / HTTP/1.1\\r\\nHost: bench\\r\\n\\r\\n"


async def client(address, port, end, keep):
    done, writer = 0, None
    while time.perf_counter() < end:
        if writer is None:
            reader, writer = await asyncio.open_connection(address, port)
        writer.write(ASK)
        await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(1024)
        done += 1
        if not keep:
            writer.close()
            writer = None
    return done


async def main(address, port, seconds, keep):
    began = time.perf_counter()
    jobs = [client(address, port, began + seconds, keep) for _ in range(16)]
    done = sum(await asyncio.gather(*jobs))
    print(done / (time.perf_counter() - began))


asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "keep"))
'''
# Asks again and again; prints each answer's time, and how long nothing was answered.
ASKER = """
import socket, sys, time
while True:
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1) as link:
            link.settimeout(1)
            link.sendall(b"GET / HTTP/1.1\\r\\nHost: bench\\r\\n\\r\\n")
            got = b""
            while len(got) < 1024:
                piece = link.recv(4096)
                if not piece:
                    raise OSError
                got += piece
        print("ok", time.monotonic(), flush=True)
    except OSError:
        print("no", time.monotonic(), flush=True)
    time.sleep(max(0, 0.1 - (time.monotonic() - began)))  # ten a second
"""
