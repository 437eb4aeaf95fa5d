"""Makes calls of every shape, and says what came of each in a line of its own."""

import sys
import threading

import grpc

target, token = sys.argv[1], sys.argv[2]
channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", 64 << 20)])
bearer = (("authorization", "Bearer " + token),)


def same(value):
    return value


def method(shape, name):
    return getattr(channel, shape)("/test.Shapes/" + name, request_serializer=same, response_deserializer=same)


def ours(metadata):
    return sorted((key, value) for key, value in metadata or () if key.startswith("x-") and key != "x-request-id")


def say(name, *facts):
    print(name, *facts, flush=True)


def outcome(name, call):
    try:
        say(name, "answered", call())
    except grpc.RpcError as error:
        say(name, error.code(), repr(error.details()), ours(error.trailing_metadata()))


unary = method("unary_unary", "Unary")
metadata = bearer + (("x-test-a", "1"), ("x-test-a", "2"), ("x-test-bin", b"\x00\x01\xfe\xff"))
body, call = unary.with_call(b"hello", metadata=metadata, timeout=20)
say("unary", body, ours(call.initial_metadata()), ours(call.trailing_metadata()), call.code())
say("empty", unary(b"", metadata=bearer, timeout=20))
large = bytes(range(256)) * 4096 * 8
say("large", unary(large, metadata=bearer, timeout=60) == large + b"!")

outcome("fail", lambda: method("unary_unary", "Fail")(b"", metadata=bearer, timeout=20))
outcome("unimplemented", lambda: method("unary_unary", "Nothing")(b"", metadata=bearer, timeout=20))
outcome("deadline", lambda: method("unary_unary", "Slow")(b"", metadata=bearer, timeout=0.5))

down = method("unary_stream", "Down")(b"50", metadata=bearer, timeout=20)
say("down", [len(piece) for piece in down], ours(down.trailing_metadata()), down.code())
none = method("unary_stream", "Down")(b"0", metadata=bearer, timeout=20)
say("none", list(none), ours(none.trailing_metadata()), none.code())

pieces = (b"x" * size for size in (0, 1, 10, 100_000, 2_000_000))
say("up", method("stream_unary", "Up")(pieces, metadata=bearer, timeout=20))

# Each answer is waited for before the next question is asked.
turn, heard = threading.Semaphore(1), []


def questions():
    for number in range(20):
        turn.acquire(timeout=20)
        yield b"%d" % number


for piece in method("stream_stream", "Chat")(questions(), metadata=bearer, timeout=20):
    heard.append(piece)
    turn.release()
say("chat", heard)

# The service ends the call while the client goes on talking.
stop = threading.Event()


def endless():
    while not stop.is_set():
        yield b"y" * 10_000


outcome("early", lambda: method("stream_unary", "Early")(endless(), metadata=bearer, timeout=20))
stop.set()

watch = method("unary_stream", "Watch")(b"", metadata=bearer)
say("watch", next(watch))
watch.cancel()
outcome("cancelled", lambda: next(watch))
