"""An echo service, or a client that has a conversation with one and says what came of it.

serve                       prints its port, then what it sees
talk ADDRESS TOKEN          prints the conversation
"""

import asyncio
import sys

import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory


async def echo(socket):
    print("opened", socket.path, socket.subprotocol, [it.name for it in socket.extensions], flush=True)
    # Before the client has said a word: together with the 101, or right behind it.
    await socket.send("welcome")
    try:
        async for message in socket:
            if message == "leave":
                await socket.close(4001, "as you wish")
            else:
                await socket.send(message)
    except websockets.ConnectionClosed:
        pass
    await socket.wait_closed()
    print("closed", socket.close_code, socket.close_reason, flush=True)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=["chat.v2"], max_size=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


def say(*facts):
    print(*facts, flush=True)


async def talk(address, token):
    def opened(**options):
        return websockets.connect(
            "ws://" + address + "/ws?room=1",
            extra_headers={"Authorization": "Bearer " + token},
            subprotocols=["chat.v1", "chat.v2"],
            max_size=None,
            open_timeout=20,
            **options,
        )

    for compression in ("deflate", None):
        async with opened(compression=compression) as socket:
            say("open", socket.subprotocol, [it.name for it in socket.extensions], await socket.recv())
            for message in ("hello ü", b"\x00\xff", "", b"", "x" * 100_000, bytes(range(256)) * 20_000):
                await socket.send(message)
                say("echo", type(message).__name__, len(message), await socket.recv() == message)
            # A message in parts arrives as one.
            await socket.send(iter(["a" * 1000, "b" * 70_000, "c"]))
            say("parts", len(await socket.recv()))
            await asyncio.wait_for(await socket.ping(b"are you there"), 20)
            say("pong")
        say("closed by us", socket.close_code, socket.close_reason)
    async with opened(extensions=[ClientPerMessageDeflateFactory(client_no_context_takeover=True)]) as socket:
        await socket.recv()
        await socket.send("leave")
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            say("closed by it", closed.code, closed.reason)


asyncio.run(serve() if sys.argv[1] == "serve" else talk(*sys.argv[2:]))
